"""A gateway without any rule: what the sockets and the event loop of a placement cost at least.

    python -m localcluster.fakes.bare_gateway PORT PODS_PORT PODS

It reads no request, and sends the callers to the pods in turn. It passes on what both send.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from avatar_gateway import event_loop
from localcluster.fakes import gateway_world

_KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
_REQUEST: Final = (
    b"GET /v1/realtime?model=bench/s HTTP/1.1\r\nHost: pod\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % _KEY
)


class _Side(asyncio.Protocol):
    """One side of a session; what arrives goes to the other one."""

    other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Pass on what arrives."""
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side."""
        del exc
        if self.other is not None:
            self.other.transport.close()


class _Caller(_Side):
    """The side of the caller: its request is the first segment."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connecting: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Connect to a pod, or pass on what follows."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            super().data_received(data)

    async def _connect(self) -> None:
        loop, pod = asyncio.get_running_loop(), _Side()
        await loop.create_connection(lambda: pod, *self._address)
        self.other, pod.other = pod, self
        pod.transport.write(_REQUEST)


async def _main(port: int, pods_port: int, pods: int) -> None:
    numbers = iter(range(sys.maxsize))

    def accept() -> _Caller:
        # As many callers in a row as a pod has slots.
        number = next(numbers) // gateway_world.CAPACITY % pods
        return _Caller((gateway_world.address(number), pods_port))

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    event_loop.run(_main(*map(int, sys.argv[1:4])))
