"""What a connection may put into memory before its session is on a pod, with both event loops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop
from aiohttp import web

from avatar_gateway.core.connections import Limits
from avatar_gateway.core.frames import Opcode, encode
from avatar_gateway.core.memory_budget import MemoryBudget
from avatar_gateway.serving import upgrade
from avatar_gateway.serving.connection import Connection
from avatar_gateway.serving.server import Listener
from avatar_gateway.settings import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MESSAGE = encode(Opcode.BINARY, bytes(8 * 2**20), bytes(4))
READ = 8 * 2**10

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


async def _unread(accept: Callable[[web.Request], Awaitable[object]]) -> None:
    """Send a handshake and a large message in one piece; nobody reads what `accept` leaves."""
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)  # what follows the handshake is there before the answer
        await accept(request)
        await ended.wait()
        return web.Response()

    application = web.Application()
    application.router.add_get("/", handler)
    async with Listener(Limits(4, 4)).listening(application, Address("127.0.0.1", 0)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE + MESSAGE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        writer.transport.abort()
        ended.set()


@LOOPS
def test_an_accepted_caller_that_nobody_reads_is_stopped(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    budget, most = MemoryBudget(2**30), 0

    def measure() -> None:
        nonlocal most
        most = max(most, budget.total)

    async def accept(request: web.Request) -> None:
        await upgrade.accept(request, budget, None)
        for delay_s in (0.1, 0.2, 0.3):
            asyncio.get_running_loop().call_later(delay_s, measure)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_unread(accept))
    assert 0 < most <= 40 * READ


@LOOPS
def test_one_read_takes_little(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    receive = Connection.data_received

    def recorded(self: Connection, data: bytes) -> None:
        sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(Connection, "data_received", recorded)

    async def leave(request: web.Request) -> None:
        upgrade.stop_reading(request)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_unread(leave))
    assert max(sizes) <= READ
    assert sum(sizes) <= 40 * READ
