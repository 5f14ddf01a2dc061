"""What a caller and a pod see of the frames that the gateway handles itself."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import WSMsgType
from aiohttp.base_protocol import BaseProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_gateway.core.frames import WHOLE_FRAME_BYTES, Opcode, encode
from avatar_gateway.core.memory_budget import MemoryBudget
from avatar_gateway.serving import liveness, peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Until = Callable[..., Awaitable[None]]

HEADERS = {"Authorization": "Bearer a-key-of-some-length"}


def _open(gateway: Any, query: str = "", **options: Any) -> connect:
    options = {"additional_headers": HEADERS, "compression": None, "max_size": None} | options
    return connect(f"{gateway.url}?model=acme/concierge{query}", **options)


async def test_a_ping_of_the_caller_is_answered_and_not_forwarded(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway) as caller, asyncio.timeout(5):
        await (await caller.ping(b"are you there"))
        await caller.send("x")
        assert await caller.recv() == "x"
    (request,) = pod.requests
    assert "Sec-WebSocket-Extensions" not in request.headers


async def test_a_ping_of_the_pod_is_answered(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    answered = asyncio.Event()

    async def ping(connection: web.WebSocketResponse, _: Any) -> None:
        await connection.ping(b"pod")
        message = await connection.receive()
        assert (message.type, message.data) == (WSMsgType.PONG, b"pod")
        answered.set()

    pod.on_message = ping
    pod.autoping = False
    async with _open(gateway) as caller, asyncio.timeout(5):
        await caller.send("x")
        await answered.wait()


async def test_a_caller_that_does_not_answer_pings_is_gone(
    gateway: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.pod("p1")
    monkeypatch.setattr(liveness, "HEARTBEAT_S", 0.1)
    async with _open(gateway, ping_interval=None) as caller:
        caller.transport.pause_reading()
        await until(lambda: gateway.sessions.live == 0)
        caller.transport.abort()


@pytest.mark.parametrize("answer", [Opcode.PONG, Opcode.PING, Opcode.TEXT, None])
def test_anything_from_a_silent_side_shows_that_it_is_there(
    monkeypatch: pytest.MonkeyPatch, answer: Opcode | None
) -> None:
    loop, protocol = _Loop(), _Protocol(ESTABLISHED)
    protocol.writing_paused = False
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    side = peer.Peer(cast("Any", protocol), MemoryBudget(2**20), is_pod=False)
    written = protocol.transport.written
    for pings in range(1, 6):
        loop.advance(liveness.HEARTBEAT_S + 0.1)
        assert not protocol.transport.aborted
        assert written == [encode(Opcode.PING, b"", None)] * pings
        # Half a heartbeat is left to answer.
        loop.advance(0.4 * liveness.HEARTBEAT_S)
        assert not protocol.transport.aborted
        if answer is None:
            loop.advance(0.1 * liveness.HEARTBEAT_S)
            assert protocol.transport.aborted
            break
        side.feed_data(encode(answer, b"", bytes(4)))
    side.feed_eof()


async def test_a_caller_never_gets_a_part_of_a_frame_that_fits(gateway: Any) -> None:
    """The pod dies within a frame: the caller gets a close frame with the reason."""
    pod = await gateway.pod("p1")

    async def die(_: Any, __: Any) -> None:
        transport = pod.transport
        transport.write(encode(Opcode.TEXT, b"whole") + encode(Opcode.TEXT, bytes(5000))[:4000])
        await asyncio.sleep(0.05)
        transport.abort()

    pod.on_message = die
    async with _open(gateway) as caller, asyncio.timeout(5):
        await caller.send("x")
        assert await caller.recv() == "whole"
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


async def test_a_connection_within_a_long_frame_ends_without_a_close_frame(gateway: Any) -> None:
    pod = await gateway.pod("p1")

    async def die(_: Any, __: Any) -> None:
        transport = pod.transport
        transport.write(encode(Opcode.TEXT, bytes(2 * WHOLE_FRAME_BYTES))[:-1])
        await asyncio.sleep(0.05)
        transport.abort()

    pod.on_message = die
    async with _open(gateway) as caller, asyncio.timeout(5):
        await caller.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is None


async def test_a_ping_within_a_long_frame_is_answered_after_it(gateway: Any) -> None:
    """The pong must not be written into the frame that is being forwarded to the caller."""
    pod = await gateway.pod("p1")
    long = encode(Opcode.TEXT, bytes(2 * WHOLE_FRAME_BYTES))
    may_end = asyncio.Event()

    async def pause_within(_: Any, __: Any) -> None:
        transport = pod.transport
        transport.write(long[:-1000])
        await may_end.wait()
        transport.write(long[-1000:])

    pod.on_message = pause_within
    async with _open(gateway) as caller, asyncio.timeout(5):
        await caller.send("x")
        await asyncio.sleep(0.05)
        pong = await caller.ping(b"now")
        await asyncio.sleep(0.05)
        may_end.set()
        assert len(await caller.recv()) == 2 * WHOLE_FRAME_BYTES
        await pong


@pytest.mark.parametrize("size", [10, 3 * WHOLE_FRAME_BYTES])
async def test_what_a_caller_sends_before_the_pod_answers_is_kept(gateway: Any, size: int) -> None:
    """aiohttp hands over what arrived with the handshake; the rest stays in the network."""
    pod = await gateway.pod("p1")
    pod.may_answer = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    message = bytes(size)
    writer.write(
        b"GET /v1/realtime?model=acme/concierge HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\napi-key: a-key-of-some-length\r\n\r\n"
        + encode(Opcode.TEXT, message, b"abcd")
    )
    await asyncio.sleep(0.05)
    pod.may_answer.set()
    async with asyncio.timeout(5):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        expected = encode(Opcode.TEXT, message)
        assert await reader.readexactly(len(expected)) == expected
    writer.transport.abort()


@pytest.mark.parametrize("query", ["", "&refuse=close"])
@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("Sec-WebSocket-Key: \xff", 400, "invalid_handshake"),
        ("Sec-WebSocket-Key: short", 400, "invalid_handshake"),
        ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAAAAAA", 400, "invalid_handshake"),
        ("Sec-WebSocket-Key:", 400, "invalid_handshake"),
        ("Sec-WebSocket-Version: 8", 426, "upgrade_required"),
    ],
)
async def test_a_wrong_handshake_is_answered_in_words(
    gateway: Any, header: str, status: int, code: str, query: str
) -> None:
    await gateway.pod("p1")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    lines = [
        f"GET /v1/realtime?model=acme/concierge{query} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    kept = [line for line in lines if line.split(":")[0] != header.split(":")[0]]
    writer.write("\r\n".join([*kept, header, "", ""]).encode("latin-1"))
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"}}")
    assert f" {status} ".encode() in answer
    assert code.encode() in answer
    writer.close()


async def test_a_side_that_takes_its_last_data_in_time_causes_no_error(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_CLOSE_TIMEOUT_S", 0.2)
    loop, faults = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    here, there = socket.socketpair()
    there.setblocking(False)
    _, protocol = await loop.create_connection(lambda: BaseProtocol(loop), sock=here)
    side = peer.Peer(protocol, MemoryBudget(2**20), is_pod=True)
    side.send(Opcode.BINARY, bytes(2**22))
    await side.close(1000)
    async with asyncio.timeout(5):
        while await loop.sock_recv(there, 2**20):
            pass
    ended = loop.time()
    await until(lambda: loop.time() > ended + 0.3)  # the gateway would end the connection by then
    assert faults == []
    there.close()


@dataclass
class _Timer:
    due: float
    callback: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class _Loop:
    """The time and the timers of an event loop; a test lets the time pass."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[_Timer] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        self._timers.append(_Timer(self._now + delay, callback))
        return self._timers[-1]

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what is due, the earliest first."""
        until = self._now + seconds
        while due := [timer for timer in self._timers if timer.due <= until]:
            first = min(due, key=lambda timer: timer.due)
            self._timers.remove(first)
            self._now = first.due
            if not first.is_cancelled:
                first.callback()
        self._now = until


class _Transport:
    """A transport whose connection has a given state."""

    family = socket.AF_UNIX

    def __init__(self, state: int) -> None:
        self.state = state
        self.checks = 0
        self.aborted = False
        self.written = list[bytes]()

    def get_extra_info(self, _: str) -> _Transport:
        return self

    def fileno(self) -> int:
        return 3

    def getsockopt(self, *_: int) -> bytes:
        self.checks += 1
        return bytes([self.state])

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


class _Protocol:
    def __init__(self, state: int) -> None:
        self.transport = _Transport(state)
        self.writing_paused = True

    def pause_reading(self) -> None:
        """Do nothing."""


ESTABLISHED, CLOSED, CLOSE_WAIT = 1, 7, 8


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="needs TCP_INFO of Linux")
@pytest.mark.parametrize(
    ("is_pod", "state", "ends"),
    [
        (False, ESTABLISHED, False),
        (False, CLOSED, True),
        (False, CLOSE_WAIT, True),
        (True, ESTABLISHED, False),
        (True, CLOSED, True),
        (True, CLOSE_WAIT, False),  # the caller has not taken what the pod sent last
    ],
)
async def test_a_side_that_is_not_read_lives_while_its_connection_is_open(
    until: Until, monkeypatch: pytest.MonkeyPatch, is_pod: bool, state: int, ends: bool
) -> None:
    monkeypatch.setattr(liveness, "HEARTBEAT_S", 0.01)
    protocol: Any = _Protocol(state)
    side = peer.Peer(protocol, MemoryBudget(2**20), is_pod=is_pod)
    side.feed_data(encode(Opcode.TEXT, bytes(100_000), None if is_pod else bytes(4)))
    await until(lambda: protocol.transport.checks > 1)
    assert protocol.transport.aborted is ends
    side.feed_eof()
