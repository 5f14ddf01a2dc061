from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_contracts import socket_buffers
from avatar_gateway.core.frames import Opcode, encode
from avatar_gateway.serving import liveness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from websockets.asyncio.client import ClientConnection

HEADERS = {"Authorization": "Bearer a-key-of-some-length"}


def _open(gateway: Any, **options: Any) -> connect:
    options = {"additional_headers": HEADERS, "compression": None, "max_size": None} | options
    return connect(f"{gateway.url}?model=acme/concierge", **options)


async def _exchange(caller: ClientConnection, message: str) -> str | bytes:
    await caller.send(message)
    return await caller.recv()


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1012, "moved"), (4410, "too long")])
async def test_the_close_frame_of_the_pod_reaches_the_caller(
    gateway: Any, code: int, reason: str
) -> None:
    pod = await gateway.pod("p1")

    async def close(socket: web.WebSocketResponse, _: Any) -> None:
        await socket.close(code=code, message=reason.encode())

    pod.on_message = close
    async with _open(gateway) as caller:
        await caller.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_the_close_frame_of_the_caller_reaches_the_pod(
    gateway: Any, until: Callable[..., Awaitable[None]], code: int
) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway) as caller:
        await caller.close(code, "bye")
    await until(lambda: pod.closed_with == [code], lambda: pod.closed_with)


async def test_the_caller_gets_1011_if_the_pod_dies(gateway: Any) -> None:
    pod = await gateway.pod("p1")

    async def die(_: Any, __: Any) -> None:
        pod.transport.abort()

    pod.on_message = die
    async with _open(gateway) as caller:
        await caller.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "pod" in closed.value.rcvd.reason


async def test_a_lost_caller_frees_the_slot_of_the_pod(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")
    caller = await _open(gateway)
    caller.transport.abort()
    await until(lambda: pod.closed_with == [1001], lambda: pod.closed_with)
    assert gateway.sessions.live == 0


async def test_a_lost_session_does_not_affect_other_sessions(gateway: Any) -> None:
    await gateway.pod("p1")
    async with _open(gateway) as other:
        caller = await _open(gateway)
        caller.transport.abort()
        await other.send("still here")
        assert await other.recv() == "still here"


@pytest.mark.slow
async def test_a_message_over_the_limit_gets_an_error_and_is_closed_with_1009(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway) as caller:
        await caller.send("x" * (21 * 2**20))
        assert len(await caller.recv()) == 21 * 2**20
        with suppress(ConnectionClosed):
            await caller.send("x" * (21 * 2**20 + 1))
        error = json.loads(await caller.recv())
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert error["type"] == "error"
    assert (error["error"]["code"], error["error"]["limit"]) == ("message_too_large", 21 * 2**20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    await until(lambda: pod.closed_with == [1009], lambda: pod.closed_with)


@pytest.mark.slow
async def test_a_caller_that_does_not_read_stops_the_pod_and_memory_stays_bounded(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")
    sent = 0

    async def flood(socket: web.WebSocketResponse, _: Any) -> None:
        nonlocal sent
        for _ in range(2000):
            await socket.send_bytes(bytes(64 * 1024))
            sent += 1

    pod.on_message = flood
    async with _open(gateway, max_queue=1) as caller:
        await caller.send("x")
        # The flood of 125 MiB stops when the socket buffers are full.
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 1000
        for _ in range(2000):
            await caller.recv()
        await until(lambda: sent == 2000)


async def test_a_caller_that_does_not_read_finds_little_on_its_way(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")
    message, buffer, sent = 16 * 1024, 32 * 1024, 0

    async def flood(socket_: web.WebSocketResponse, _: Any) -> None:
        nonlocal sent
        socket_.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        for _ in range(1000):
            await socket_.send_bytes(bytes(message))
            sent += 1

    pod.on_message = flood
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await asyncio.to_thread(caller.connect, ("127.0.0.1", int(gateway.url.split(":")[2][:5])))
    async with _open(gateway, sock=caller, max_queue=1) as slow:
        await slow.send("x")
        seen: list[int] = []

        def is_full() -> bool:
            seen.append(sent)
            return len(seen) > 50 and seen[-50] == sent > 0

        await until(is_full, lambda: sent)
        # The kernel doubles the buffers. Each side of the pod's and the caller's connection holds
        # one, the transports of asyncio 64 KiB each, and the gateway reads 64 KiB ahead.
        kernel = 2 * (2 * buffer + socket_buffers.UNREAD_BYTES) + socket_buffers.UNSENT_BYTES
        assert sent * message < kernel + 4 * 64 * 1024
        for _ in range(1000):
            await slow.recv()


async def test_the_gateway_forwards_invalid_utf8_to_the_pod(gateway: Any) -> None:
    await gateway.pod("p1")
    async with _open(gateway) as caller:
        await caller.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


async def test_a_pod_that_takes_nothing_and_ends_its_side_ends_the_session(
    gateway: Any, until: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio tells of the end only when all is sent, and the heartbeat waits 60 s.

    What the pod sent before its end reaches the caller.
    """
    monkeypatch.setattr(liveness, "_UNSENT_CHECK_S", 0.05)
    pod = await gateway.pod("p1")
    may_end, sent, unchanged = asyncio.Event(), 0, list[int]()

    async def stop_reading(connection: web.WebSocketResponse, _: Any) -> None:
        transport = pod.transport
        transport.pause_reading()
        await may_end.wait()
        transport.write(encode(Opcode.TEXT, b"last words"))
        transport.write_eof()

    async def flood(caller: ClientConnection) -> None:
        nonlocal sent
        while True:
            await caller.send(bytes(2**16))
            sent += 1

    def nothing_leaves() -> bool:
        unchanged.append(sent)
        return unchanged[-10:] == [sent] * 10 and sent > 0

    pod.on_message = stop_reading
    async with _open(gateway, ping_interval=None) as caller, asyncio.timeout(10):
        await caller.send("x")
        flooding = asyncio.create_task(flood(caller))
        await until(nothing_leaves)  # the buffers of all systems are full
        may_end.set()
        assert await caller.recv() == "last words"
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        await asyncio.gather(flooding, return_exceptions=True)
    await until(lambda: gateway.sessions.live == 0)


@pytest.mark.parametrize("size", [0, 32, 125, 126, 65_536, 300_000])
async def test_binary_messages_pass_unharmed_in_both_directions(gateway: Any, size: int) -> None:
    await gateway.pod("p1")  # it echoes a message in the type that it came in
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with _open(gateway) as caller:
        await caller.send(message)
        assert await caller.recv() == message
        # The order is kept between messages of both types.
        for index in range(20):
            await caller.send(message[: size // 2] if index % 2 else f"text {index}")
        received = [await caller.recv() for _ in range(20)]
    assert received == [
        message[: size // 2] if index % 2 else f"text {index}" for index in range(20)
    ]
