"""The pictures below patches, from a server on a socket."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client import errors, idle_loop
from avatar_client.session import Target
from avatar_client.traces import Patch, Trace, VideoFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., list[dict[str, Any]]]


class Server(http.server.ThreadingHTTPServer):
    """Serves pictures, and keeps the requests."""

    def __init__(self) -> None:
        self.pictures = {"/idle/1.jpg": b"one", "/idle/2.jpg?version=0f": b"two"}
        self.requests: list[tuple[str, str | None]] = []
        self.busy = 0
        """Requests that are answered with 503."""
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Authorization"]))
        body = self.server.pictures.get(self.path)
        if self.server.busy:
            self.server.busy -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
            body = b"busy"
        else:
            self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def target(server: Server) -> Target:
    return Target(f"ws://127.0.0.1:{server.server_port}", "acme/concierge", "the-key")


def frames(*pictures: str) -> list[VideoFrame]:
    patches = [Patch((0, 0, 16, 16), picture) for picture in pictures]
    return [VideoFrame(n, n * 40, 0.0, b"", patch=patch) for n, patch in enumerate(patches)]


async def test_each_picture_is_fetched_once_with_the_key(server: Server) -> None:
    needed = ("/idle/1.jpg", "/idle/2.jpg?version=0f", "/idle/1.jpg")
    whole = VideoFrame(9, 360, 0.0, b"jpeg")
    assert await idle_loop.fetch(target(server), [*frames(*needed), whole]) == server.pictures
    assert server.requests == [(picture, "Bearer the-key") for picture in needed[:2]]
    assert await idle_loop.fetch(target(server), [whole]) == {}


async def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.busy = 3
    assert await idle_loop.fetch(target(server), frames("/idle/1.jpg")) == {"/idle/1.jpg": b"one"}
    assert len(server.requests) == 4


async def test_a_server_that_stays_busy_is_named(server: Server) -> None:
    server.busy = 10**6
    with pytest.raises(errors.RecordingError, match=r"/idle/1.jpg: the server answered 503"):
        await idle_loop.fetch(target(server), frames("/idle/1.jpg"))
    assert len(server.requests) == idle_loop._MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5", 5), ("999999999", 10), ("", 1), ("-1", 1), ("Wed, 21 Oct 2026", 1)],
)
def test_the_wait_is_what_the_server_says_within_bounds(text: str, seconds: int) -> None:
    assert idle_loop._wait_s(text) == seconds


async def test_a_missing_picture_is_named(server: Server) -> None:
    with pytest.raises(errors.RecordingError, match=r"/idle/9.jpg: the server answered 404"):
        await idle_loop.fetch(target(server), frames("/idle/9.jpg"))


async def test_a_picture_without_end_is_refused(server: Server) -> None:
    server.pictures["/idle/1.jpg"] = bytes(idle_loop.MAX_BYTES + 1)
    with pytest.raises(errors.RecordingError, match="more than 2097152 bytes"):
        await idle_loop.fetch(target(server), frames("/idle/1.jpg"))


async def test_a_server_that_is_gone_is_named(server: Server) -> None:
    gone = Target("ws://127.0.0.1:1", "acme/concierge", "")
    with pytest.raises(errors.RecordingError, match="the idle loop"):
        await idle_loop.fetch(gone, frames("/idle/1.jpg"))


PLACE = {"rect": [16, 32, 48, 64], "source_frame": 3}


def traced(messages: Make, url: str, place: dict[str, Any]) -> Trace:
    trace = Trace(keep_media=True)
    for message in messages(bytes(2 * 960)):
        if "session" in message:
            avatar = message["session"]["avatar"]
            avatar |= {"idle_url": url, "idle_frames": 10}
            avatar["video"] = {"resolution": {"width": 64, "height": 96}}
        if message["type"] == "response.video.delta":
            message |= place
        trace.receive(message, 0.0)
    return trace


def test_a_frame_names_the_picture_below(messages: Make) -> None:
    trace = traced(messages, "/idle/{frame}.jpg?version=0f", PLACE)
    assert trace.violations == []
    ((frame,),) = (response.frames for response in trace.responses.values())
    assert frame.patch == Patch((16, 32, 48, 64), "/idle/3.jpg?version=0f")


@pytest.mark.parametrize(
    ("url", "place", "sentence"),
    [
        ("/{frame}", {"rect": [32, 32, 48, 64]}, "of 64 x 96"),
        ("/{frame}", {"rect": [0, 40, 48, 64]}, "of 64 x 96"),
        ("/{frame}", {"rect": [-16, 0, 48, 64]}, "of 64 x 96"),
        ("/{frame}", {"source_frame": 10}, "over frame 10 of 10"),
        ("//evil.example/{frame}", {}, "not a path"),
        ("http://evil.example/{frame}", {}, "not a path"),
    ],
    ids=["right", "below", "left", "no such frame", "another host", "another address"],
)
def test_a_patch_in_a_wrong_place_is_a_violation(
    messages: Make, url: str, place: dict[str, Any], sentence: str
) -> None:
    (violation,) = traced(messages, url, {**PLACE, **place}).violations
    assert sentence in violation
