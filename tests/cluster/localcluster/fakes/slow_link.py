"""A network that passes few bytes a second to a client, or none: a token bucket on sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHUNK_BYTES: Final = 8192
_BUFFER_BYTES: Final = 32 * 1024
"""What the kernel holds of each side; the network is slow, and not a store."""


class TokenBucket:
    """Says when bytes may pass: `rate` of them a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Take tokens for `count` bytes, and return how many seconds these must wait."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._tokens / self._rate)


@dataclass
class SlowLink:
    """A way to a server, with a limit in the direction to the client."""

    host: str
    port: int
    bytes_per_s: float | None
    """`None` for a network without a limit."""
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether anything passes to the client."""
    address: str = ""
    """`HOST:PORT` for clients."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect one client."""
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        server.setblocking(False)
        await asyncio.get_running_loop().sock_connect(server, (self.host, self.port))
        down, up = await asyncio.open_connection(sock=server, limit=_CHUNK_BYTES)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._down(down, writer))
                group.create_task(_pass(reader, up))
        except* ConnectionError:
            pass
        finally:
            up.close()
            writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        bucket = None
        if self.bytes_per_s is not None:
            bucket = TokenBucket(self.bytes_per_s, 2 * _CHUNK_BYTES, clock())
        while True:
            await self.flows.wait()
            data = await reader.read(_CHUNK_BYTES)
            if not data:
                writer.write_eof()
                return
            if bucket is not None:
                await asyncio.sleep(bucket.take(len(data), clock()))
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def open_link(
    host: str, port: int, bytes_per_s: float | None = None
) -> AsyncIterator[SlowLink]:
    """Serve a way to a server on the loopback address until the end of the body."""
    link = SlowLink(host, port, bytes_per_s)
    link.flows.set()
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield link


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
