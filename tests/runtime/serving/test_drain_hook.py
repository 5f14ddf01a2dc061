from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from avatar_runtime.errors import DeliveryError
from avatar_runtime.serving import drain_hook

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def runtime(bodies: list[object]) -> Iterator[tuple[drain_hook.Control, list[str]]]:
    """Return the control of a runtime that answers with these bodies, and the requests it gets."""
    asked: list[str] = []
    answers = iter(bodies)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append(f"{self.command} {self.path} {self.headers['Authorization']} {body}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(next(answers)).encode())

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield drain_hook.Control(f"http://127.0.0.1:{server.server_port}", "t0ken"), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sessions(*left: int) -> list[object]:
    return [{"sessions": number} for number in left]


def test_it_waits_until_the_last_session_has_ended() -> None:
    passed: list[float] = []
    with runtime(sessions(3, 2, 0)) as (control, asked):
        left = drain_hook.run(control, 60.0, clock=lambda: sum(passed), sleep=passed.append)
    assert (left, passed) == (0, [1.0, 1.0])
    assert asked == [
        'POST /control/v1/drain Bearer t0ken {"draining": true}',
        "GET /control/v1/state Bearer t0ken ",
        "GET /control/v1/state Bearer t0ken ",
    ]


def test_it_stops_waiting_at_its_timeout() -> None:
    passed: list[float] = []
    with runtime(sessions(3, 3, 3, 3)) as (control, _):
        left = drain_hook.run(control, 2.5, clock=lambda: sum(passed), sleep=passed.append)
    assert (left, passed) == (3, [1.0, 1.0, 0.5])


def test_without_waiting_it_only_starts_the_drain() -> None:
    with runtime(sessions(3)) as (control, asked):
        assert drain_hook.run(control, 0.0) == 3
    assert len(asked) == 1


def test_a_response_without_a_number_is_an_error() -> None:
    with (
        runtime([{"sessions": None}]) as (control, _),
        pytest.raises(DeliveryError, match="no number of sessions"),
    ):
        control.drain()


def test_a_runtime_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(DeliveryError, match=r"^http://127\.0\.0\.1:1/control/v1/drain: "):
        drain_hook.Control("http://127.0.0.1:1", "t0ken").drain()
