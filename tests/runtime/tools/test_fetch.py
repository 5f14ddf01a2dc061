"""Downloads: only allowed hosts, only the wanted file, and never half of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import errors
from avatar_runtime.tools import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"a film" * 100_000
SHA = hashlib.sha256(CONTENT).hexdigest()
HERE = ("127.0.0.1",)


class Server:
    """A server of one file, with responses by path."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.location = "/film.mp4"
        self.length: int | None = len(CONTENT)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.paths.append(handler.path)
        status = {"/redirect": 302, "/loop": 302, "/gone": 404}.get(handler.path, 200)
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", "/loop" if handler.path == "/loop" else self.location)
        if self.length is not None and status == 200:
            handler.send_header("Content-Length", str(self.length))
        handler.end_headers()
        if status == 200:
            with contextlib.suppress(OSError):
                handler.wfile.write(CONTENT)


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    """Give a server and its address."""
    found = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield found, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def request(url: str, **changes: Any) -> fetch.Request:
    values: dict[str, Any] = {"sha256": SHA, "max_bytes": len(CONTENT), "hosts": HERE} | changes
    return fetch.Request(url, **values)


def test_a_file_is_downloaded(server: tuple[Server, str], tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    assert fetch.fetch(request(f"{server[1]}/film.mp4?v=1"), out) == len(CONTENT)
    assert out.read_bytes() == CONTENT
    assert server[0].paths == ["/film.mp4?v=1"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_redirect_to_an_allowed_host_is_followed(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    fetch.fetch(request(f"{server[1]}/redirect"), tmp_path / "a")
    assert server[0].paths == ["/redirect", "/film.mp4"]


@pytest.mark.parametrize(
    ("path", "location", "changes", "fault", "permanent"),
    [
        ("/redirect", "http://other.example/x", {}, "host other.example is not among", True),
        ("/redirect", "file:///etc/passwd", {}, "must be an http or https URL", True),
        ("/loop", "", {}, "more than 3 redirects", True),
        ("/film.mp4", "", {"sha256": "0" * 64}, f"its SHA-256 is {SHA}", True),
        ("/film.mp4", "", {"max_bytes": 10}, "must be at most 10", True),
        ("/gone", "", {}, "status is 404, must be 200", False),
    ],
)
def test_a_wrong_file_leaves_nothing(
    server: tuple[Server, str],
    tmp_path: Path,
    path: str,
    location: str,
    changes: dict[str, Any],
    fault: str,
    permanent: bool,
) -> None:
    server[0].location = location
    with pytest.raises(errors.FetchError, match=fault) as error:
        fetch.fetch(request(server[1] + path, **changes), tmp_path / "film.mp4")
    assert error.value.permanent is permanent
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_declared_size_is_bounded_too(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    server[0].length = None
    with pytest.raises(errors.FetchError, match="must be at most 1000"):
        fetch.fetch(request(f"{server[1]}/film.mp4", max_bytes=1000), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_half_a_file_may_be_tried_again(server: tuple[Server, str], tmp_path: Path) -> None:
    server[0].length = len(CONTENT) + 1
    with pytest.raises(errors.FetchFailed, match=r"broke|arrived"):
        fetch.fetch(request(f"{server[1]}/a", max_bytes=len(CONTENT) + 1), tmp_path / "a")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("ftp://127.0.0.1/a", "must be an http or https URL"),
        ("http://user@127.0.0.1/a", "must not contain a user"),
        ("http://localhost/a", "host localhost is not among the allowed hosts: 127.0.0.1"),
        ("http://127.0.0.1:99999/a", "Port out of range"),
        ("http://127.0.0.1:0/a", "port is 0"),
        ("http://[::1/a", "Invalid IPv6 URL"),
    ],
)
def test_a_url_that_is_not_allowed_is_not_opened(url: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(errors.FetchError, match=fault):
        fetch.fetch(request(url), tmp_path / "a")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1"]
)
def test_a_pattern_allows_no_private_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(errors.FetchError, match=f"its address {address} is private"):
        fetch.fetch(request("http://a.media.example/x", hosts=("*.media.example",)), tmp_path / "a")


def test_the_checked_address_is_the_one_that_is_connected_to(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = int(server[1].rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    real = socket.getaddrinfo
    names: list[str] = []

    def resolve(host: str, *rest: Any, **options: Any) -> Any:
        names.append(host)
        return found if host == "films.example" else real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    fetch.fetch(request(f"http://films.example:{port}/a", hosts=("films.example",)), tmp_path / "a")
    assert names.count("films.example") == 1
