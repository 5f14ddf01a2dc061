"""Runs the two listeners in one event loop, and ends them without ending a session early."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from avatar_runtime.errors import AvatarRuntimeError
from avatar_runtime.protocol.client_events import MAX_MESSAGE_BYTES
from avatar_runtime.serving import admin, app
from avatar_runtime.settings import Address

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport
    from collections.abc import AsyncIterator, Callable, Iterator

    from fastapi import FastAPI
    from uvicorn._types import ASGISendEvent

    from avatar_runtime.serving.runtime import Runtime

PING_S: Final = 20.0
PONG_S: Final = 40.0  # over the 30 s after which a stalled socket is closed with its own code
FLUSH_S: Final = 10.0
SEND_BUFFER_BYTES: Final = 256 * 1024  # half a second of video; more would hide a slow client
# The session refuses over 21 MiB with an error event; this bounds what is taken in at all.
_HARD_LIMIT_BYTES: Final = MAX_MESSAGE_BYTES + 1024 * 1024

_log: Final = logging.getLogger(__name__)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, except towards a peer that does not read.

    Its close frame goes behind what waits instead of waiting for room, and its socket is taken
    away soon after the session has ended.
    """

    def connection_made(self, transport: BaseTransport) -> None:
        """Bound what the kernel hides from the session."""
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().connection_made(transport)

    async def send(self, message: ASGISendEvent) -> None:
        """Send, and never wait to say the last word."""
        if message["type"] == "websocket.close":
            self.writable.set()
        await super().send(message)

    async def run_asgi(self) -> None:
        """Serve the connection, then see that it ends."""
        await super().run_asgi()
        self.loop.call_later(FLUSH_S, self.transport.abort)


class _Server(uvicorn.Server):
    """A server that leaves signals to us: uvicorn's own way closes live sessions."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell so."""
        await super().startup(sockets)
        self.listens.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where a runtime listens; a port that was 0 has become one."""

    sessions: Address
    admin: Address


async def serve(make: Callable[[], Runtime]) -> None:
    """Serve what `make` builds in the loop until SIGTERM or SIGINT, and the last session's end.

    Raises `AssetError` or `EngineError` if the engine does not start.
    """
    runtime = make()
    told = _signals()
    async with listening(runtime):
        fault = await until_end(runtime, told)
    if fault is not None:
        raise fault


@asynccontextmanager
async def listening(runtime: Runtime) -> AsyncIterator[Listeners]:
    """Listen on both ports and make frames; afterwards nothing of the runtime is left."""
    # Bound first: a port that is taken must stop the process, not a task.
    sockets = [_bind(runtime.settings.sessions_listen), _bind(runtime.settings.admin_listen)]
    servers = [_server(app.create(runtime)), _server(admin.create(runtime))]
    async with asyncio.TaskGroup() as group:
        serving = [
            group.create_task(server.serve(sockets=[bound]), name="listener")
            for server, bound in zip(servers, sockets, strict=True)
        ]
        helpers = [
            group.create_task(runtime.pump.run(), name="pump"),
            group.create_task(runtime.measure_lag(), name="loop lag"),
            group.create_task(runtime.govern(), name="governor"),
        ]
        for server in servers:
            await server.listens.wait()
        try:
            yield Listeners(*(Address(*bound.getsockname()[:2]) for bound in sockets))
        finally:
            runtime.stop_watchers()
            for server in servers:
                server.should_exit = True
            await asyncio.wait(serving)
            for helper in helpers:
                helper.cancel()
            await runtime.stop()


async def until_end(runtime: Runtime, told: asyncio.Event) -> AvatarRuntimeError | None:
    """Return when it is time to go, with what kept the engine from starting, if anything did."""
    stop = asyncio.create_task(told.wait(), name="signal")
    start = asyncio.create_task(runtime.start(), name="engine start")
    try:
        # The engine's thread cannot be interrupted: even if told to stop, wait for it.
        await start
        _settle_memory()
        await stop
        await runtime.drain()
    except AvatarRuntimeError as error:
        return error
    finally:
        stop.cancel()
    return None


def _settle_memory() -> None:
    """Take what the start made out of garbage collection.

    A collection walks every object, with all threads stopped: 0.12 s of CPU for the 237,000 of a
    loaded torch, a visible stall. Afterwards it walks only what sessions make.
    """
    gc.collect()
    gc.freeze()


def _signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address.host, address.port))
    bound.set_inheritable(False)
    return bound


def _server(application: FastAPI) -> _Server:
    config = uvicorn.Config(
        application,
        http="h11",
        ws=WebSocketProtocol,
        ws_max_size=_HARD_LIMIT_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PONG_S,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(FLUSH_S),
    )
    return _Server(config)
