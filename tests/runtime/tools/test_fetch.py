"""Downloads: only allowed hosts, only the wanted file, and never half of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import errors
from avatar_runtime.__main__ import main
from avatar_runtime.tools import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"a film" * 100_000
SHA = hashlib.sha256(CONTENT).hexdigest()
HERE = ("127.0.0.1",)
STATUSES = {"/redirect": 302, "/loop": 302, "/gone": 404, "/busy": 503, "/slower": 429}


class Server:
    """A server of one file, with responses by path."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.location = "/film.mp4"
        self.length: int | None = len(CONTENT)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.paths.append(handler.path)
        status = STATUSES.get(handler.path, 200)
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
        ("/gone", "", {}, "status is 404, must be 200", True),
        ("/busy", "", {}, "status is 503, must be 200", False),
        ("/slower", "", {}, "status is 429, must be 200", False),
        ("/redirect", "http://[::1/x", {}, "Invalid IPv6 URL", True),
        ("/redirect", "gopher://127.0.0.1/x", {}, "must be an http or https URL", True),
        ("/redirect", "//169.254.169.254/x", {}, "host 169.254.169.254 is not among", True),
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
        ("http://[::ffff:127.0.0.1]/a", "host ::ffff:127.0.0.1 is not among the allowed hosts"),
        ("http://2130706433/a", "host 2130706433 is not among the allowed hosts"),
        ("http://0x7f.1/a", "host 0x7f.1 is not among the allowed hosts"),
        ("http://127.0.0.1.evil.example/a", "is not among the allowed hosts"),
        ("http://127.0.0.1@evil.example/a", "must not contain a user"),
        ("file:///etc/passwd", "must be an http or https URL"),
        ("gopher://127.0.0.1:70/_x", "must be an http or https URL"),
        ("/etc/passwd", "must be an http or https URL"),
    ],
)
def test_a_url_that_is_not_allowed_is_not_opened(url: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(errors.FetchError, match=fault):
        fetch.fetch(request(url), tmp_path / "a")


def resolving(monkeypatch: pytest.MonkeyPatch, address: str) -> list[str]:
    """Let every name have this address; return the list of the names that are looked up."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    names: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> Any:
        names.append(host)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.169.254", "::1", "fd00::1", "fe80::1",
        "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "2002:a9fe:a9fe::1",
        "::10.0.0.1", "ff02::1", "224.0.0.1", "0.0.0.0", "::",
    ],
)  # fmt: skip
def test_a_pattern_allows_no_private_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    resolving(monkeypatch, address)
    with pytest.raises(errors.FetchError, match=r"its address .* is private"):
        fetch.fetch(request("http://a.media.example/x", hosts=("*.media.example",)), tmp_path / "a")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe"],
)
def test_a_name_leads_to_no_address_of_the_machine_or_its_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    resolving(monkeypatch, address)
    with pytest.raises(errors.FetchError, match="is of this machine or its link"):
        fetch.fetch(request("http://films.example/x", hosts=("films.example",)), tmp_path / "a")


def test_the_checked_address_is_the_one_that_is_connected_to(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = int(server[1].rpartition(":")[2])
    reached: list[str] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(address[0])
        made = socket.socket()
        made.settimeout(timeout)
        made.connect(("127.0.0.1", port))
        return made

    names = resolving(monkeypatch, "10.9.8.7")
    monkeypatch.setattr(socket, "create_connection", connect)
    url = f"http://films.example:{port}/a"
    fetch.fetch(request(url, hosts=("films.example",)), tmp_path / "a")
    assert (names, reached) == (["films.example"], ["10.9.8.7"])


@pytest.mark.parametrize("host", [".media.example", "a" * 70 + ".media.example"])
def test_a_host_that_is_no_name_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(errors.FetchError, match="is not the name of a host"):
        fetch.fetch(request(f"http://{host}/x", hosts=("*.media.example",)), tmp_path / "a")


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_server_that_drips_meets_the_time_limit(
    start: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "TOTAL_S", 0.3)
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(start)
            while not ended.wait(0.01):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        try:
            with pytest.raises(errors.FetchFailed, match="took longer than"):
                fetch.fetch(request(url), tmp_path / "a")
        finally:
            ended.set()
            thread.join()
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_says_whether_another_attempt_may_succeed(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    def run(path: str, out: Path) -> tuple[int, dict[str, Any]]:
        message = tmp_path / "message"
        status = main(
            [
                "fetch",
                "--url",
                server[1] + path,
                "--sha256",
                SHA,
                "--allow-host",
                HERE[0],
                "--out",
                str(out),
                "--message",
                str(message),
            ]
        )
        return status, json.loads(message.read_text())

    for path, out, status in (
        ("/gone", tmp_path / "a", 65),
        ("/busy", tmp_path / "a", 75),
        ("/film.mp4", tmp_path / "no" / "a", 65),
    ):
        found, result = run(path, out)
        assert (found, result["permanent"]) == (status, status == 65), path
