"""The load balancer in front of the gateways: each connection goes to the next ready pod.

The nodes of the local cluster have no kube-proxy. This does what a Service of type LoadBalancer
does: it follows the Ready condition of the pods, and cuts no open connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Pods = Callable[[], Awaitable[list[dict[str, Any]]]]

_REFRESH_S: Final = 0.25
_CHUNK: Final = 64 * 1024


class FrontDoor:
    """Listens on one port, and passes connections to the sessions ports of ready pods."""

    def __init__(self, pods: Pods) -> None:
        """`pods` returns the gateway pods as the API server describes them."""
        self.address = ""
        """HOST:PORT."""
        self.backends: list[str] = []
        """IP addresses of the ready pods."""
        self._pods = pods
        self._turns = itertools.count()
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[FrontDoor]:
        """Serve while the body runs; there is a ready pod from the start."""
        refreshing = asyncio.create_task(self._refresh(), name="front door")
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            await self._until(lambda: bool(self.backends), 60)
            yield self
        finally:
            refreshing.cancel()
            server.close()
            await asyncio.gather(refreshing, return_exceptions=True)

    async def until(self, pods: int, within_s: float = 60) -> None:
        """Wait until exactly this number of pods is ready."""
        await self._until(lambda: len(self.backends) == pods, within_s)

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def _refresh(self) -> None:
        while True:
            ready = [pod["status"]["podIP"] for pod in await self._pods() if _is_ready(pod)]
            self.backends = sorted(ready)
            self._changed.set()
            await asyncio.sleep(_REFRESH_S)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            backend = self.backends[next(self._turns) % len(self.backends)]
            pod_reader, pod_writer = await asyncio.open_connection(backend, 8080)
        except (OSError, ZeroDivisionError):
            writer.transport.abort()
            return
        ways = [
            asyncio.create_task(_copy(reader, pod_writer)),
            asyncio.create_task(_copy(pod_reader, writer)),
        ]
        await asyncio.wait(ways)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        writer.transport.abort()


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return (
        "deletionTimestamp" not in pod["metadata"]
        and bool(pod["status"].get("podIP"))
        and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    )
