"""How the reader and the writer of one connection end, without a socket."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from avatar_runtime.protocol.media import VideoFrame
from avatar_runtime.protocol.resume import ResumeTokens
from avatar_runtime.serving import connection
from avatar_runtime.serving.large_messages import LargeMessages
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.session_clock import SessionClock
from avatar_runtime.serving.usage import UsageReports


class Parts:
    """A fake of the socket, of the session and of the runtime; the client sends nothing."""

    def __init__(self) -> None:
        self.id = "s1"
        self.calls: list[Any] = []
        self.closing: SimpleNamespace | None = None
        self.can_receive = True
        self.is_speaking = True
        self.official_only = False
        self.spoken_s = 0.0
        self.acked_seq = 0
        self.outgoing: list[Any] = []
        self.incoming: list[dict[str, Any]] = []
        self.batcher = self.metrics = self
        self.fault: Exception | None = None

    def clock(self) -> float:
        return 100.0

    def add(self, session: object, wake: object) -> None:
        assert session is self
        assert callable(wake)
        self.calls.append("add")

    def remove(self, session: str) -> None:
        self.calls.append(f"remove {session}")

    def set_speaking(self, session: str, speaking: bool) -> None:
        self.calls.append(f"{session} speaks {speaking}")

    def collect_due(self, session: str) -> None:
        self.calls.append(f"due {session}")

    async def receive(self) -> dict[str, Any]:
        if self.incoming:
            return self.incoming.pop(0)
        return await asyncio.Future()

    def receive_message(self, data: object, now: float) -> None:
        self.calls.append((data, now))

    def tick(self, now: float) -> None:
        self.calls.append(f"tick {now}")

    def pull(self, now: float) -> Any:
        assert now == 100.0
        return self.outgoing.pop(0) if self.outgoing else None

    def wakeup(self) -> float:
        return 200.0

    def end(self, code: int, reason: str, now: float) -> None:
        assert now == 100.0
        self.closing = SimpleNamespace(code=code, reason=reason)

    async def send_text(self, text: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.calls.append(f"sent {text}")

    async def close(self, code: int, reason: str) -> None:
        self.calls.append(f"closed {code} {reason}")

    def count_sent(self, *given: object) -> None:
        self.calls.append(("count", *given))

    def observe_first_frame(self, *given: object) -> None:
        self.calls.append(("first", *given))

    def observe_turn(self, *given: object) -> None:
        self.calls.append(("turn", *given))


def outgoing(text: str, frame: Any = None, **times: float) -> Any:
    return SimpleNamespace(
        seq=1, message=text, frame=frame, **{"speakable_at": None, "heard_at": None, **times}
    )


def session_of(parts: Parts) -> Any:
    """The session has a `receive` of its own: it gets the messages."""
    names = (
        "id",
        "tick",
        "pull",
        "wakeup",
        "end",
        "can_receive",
        "is_speaking",
        "official_only",
        "spoken_s",
        "acked_seq",
    )

    class Session:
        receive = staticmethod(parts.receive_message)

        def listen(self, now: float) -> bool:
            assert now == 100.0
            return False

        def __getattr__(self, name: str) -> Any:
            assert name in (*names, "closing")
            return getattr(parts, name)

    return Session()


def connect(parts: Parts) -> LiveSession:
    sessions = SimpleNamespace(fps=25, resume_ttl_s=0, max_duration_s=7200)
    runtime: Any = SimpleNamespace(
        batcher=SimpleNamespace(
            add=lambda session, wake, clock: parts.add(parts, wake),
            remove=parts.remove,
            collect_due=parts.collect_due,
        ),
        settings=SimpleNamespace(sessions=sessions),
        connections=set(),
        usage=UsageReports(parts.clock),
        video_encoders=SimpleNamespace(open=lambda: None),
        set_speaking=parts.set_speaking,
        clock=parts.clock,
        large_messages=LargeMessages(),
        metrics=parts,
        open_shell=lambda session, changed, clock: None,
    )
    return LiveSession(session_of(parts), runtime, SessionClock(parts.clock), ResumeTokens())


async def serve(parts: Parts, live: LiveSession) -> str:
    """Serve a session on its only connection, and return how it ended."""
    socket: Any = parts
    async with asyncio.timeout(2), asyncio.TaskGroup() as group:
        group.create_task(live.carry(socket))
        await asyncio.sleep(0)
        return await live.run()


async def run(parts: Parts) -> str:
    return await serve(parts, connect(parts))


async def test_a_session_that_ends_stops_reading_although_the_client_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "avatar_runtime.serving.connection")
    parts = Parts()
    parts.end(4408, "idle", 100.0)
    assert await run(parts) == "closed 4408"
    assert parts.calls == [
        "add", "tick 100.0", "due s1", "s1 speaks True", "closed 4408 idle", "remove s1",
        "s1 speaks False",
    ]  # fmt: skip
    assert caplog.messages == ["session closed session=s1 code=4408 reason=idle"]


async def test_a_connection_can_be_ended_while_it_waits() -> None:
    parts = Parts()
    served = connect(parts)
    task = asyncio.create_task(serve(parts, served))
    for _ in range(3):
        await asyncio.sleep(0)
    served.end(4410, "deleted")
    assert await task == "closed 4410"


async def test_messages_reach_the_session_as_text_or_bytes_before_the_client_leaves() -> None:
    parts = Parts()
    parts.incoming = [
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.receive", "text": None, "bytes": b"b"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.disconnect", "code": 1001},
    ]
    assert await run(parts) == "client left 1001"
    received = [call for call in parts.calls if isinstance(call, tuple)]
    assert received == [("a", 100.0), (b"b", 100.0), ("", 100.0)]
    assert parts.calls[-2:] == ["remove s1", "s1 speaks False"]


async def test_a_client_that_vanishes_is_no_fault() -> None:
    parts = Parts()
    parts.outgoing = [outgoing("x")]
    parts.fault = WebSocketDisconnect(1006)
    assert await run(parts) == "client vanished"


async def test_a_socket_that_takes_nothing_for_30_s_is_closed() -> None:
    assert connection.STALL_S == 30.0
    parts = Parts()
    parts.outgoing = [outgoing("x")]
    parts.fault = TimeoutError()
    assert await run(parts) == "closed 4413"
    assert "closed 4413 the socket took nothing for 30 s" in parts.calls


async def test_each_sent_frame_is_measured() -> None:
    parts = Parts()
    frames = [VideoFrame(0, b"jpeg", 99.0, drawn) for drawn in (True, False)]
    parts.outgoing = [
        outgoing("a", frames[0], speakable_at=98.5, heard_at=99.5),
        outgoing("b", frames[1]),
        outgoing("c", speakable_at=97.0),
    ]
    parts.end(1000, "bye", 100.0)
    await run(parts)
    measured = [call for call in parts.calls if isinstance(call, tuple)]
    assert measured == [
        ("count", "drawn", 1.0, 100.0),
        ("first", 1.5, 100.0),
        ("turn", "avatar", 0.5),
        ("count", "silent", 1.0, 100.0),
    ]
    assert [call for call in parts.calls if str(call).startswith("sent")] == [
        "sent a", "sent b", "sent c",
    ]  # fmt: skip


async def test_a_client_that_does_not_read_is_not_read() -> None:
    parts = Parts()
    parts.can_receive = False
    parts.incoming = [{"type": "websocket.receive", "text": str(number)} for number in range(3)]
    served = connect(parts)
    task = asyncio.create_task(serve(parts, served))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(parts.incoming) == 3
    parts.can_receive = True
    served.wake()
    for _ in range(20):
        await asyncio.sleep(0)
    assert parts.incoming == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
