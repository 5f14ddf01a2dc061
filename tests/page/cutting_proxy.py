"""A proxy on the loopback interface whose connections a test cuts, as a lost network does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE = 1 << 16


class CuttingProxy:
    """Passes bytes in both directions until `cut`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepts = True
        """Whether new connections are served; otherwise they are cut at once."""
        self.connections = 0

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CuttingProxy]:
        """Listen until the end of the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.accepts:
            writer.transport.abort()
            return
        self.connections += 1
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, onward}
        self._writers |= ends
        try:
            await asyncio.gather(_pass(reader, onward), _pass(onward_reader, writer))
        finally:
            self._writers -= ends
            for each in ends:
                each.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    with suppress(ConnectionError, OSError, RuntimeError):
        writer.close()
