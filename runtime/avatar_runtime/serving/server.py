"""Runs the two listeners in one event loop, and stops them after the last session has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from avatar_contracts import socket_buffers, tls
from avatar_contracts.tcp import PeerEnd, peer_end
from avatar_runtime import cpus
from avatar_runtime.errors import AvatarRuntimeError
from avatar_runtime.protocol.client_events import MAX_MESSAGE_BYTES
from avatar_runtime.serving import admin, app
from avatar_runtime.serving.live_sessions import LiveSessions
from avatar_runtime.serving.request_deadline import HTTPProtocol
from avatar_runtime.settings import Address

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from fastapi import FastAPI
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

    from avatar_runtime.serving.runtime import Runtime

PING_S: Final = 20.0
PONG_S: Final = 40.0  # over the 30 s after which a stalled socket is closed with its own code
FLUSH_S: Final = 10.0
SEND_BUFFER_BYTES: Final = 256 * 1024  # half a second of video; more would hide a slow client
# The session refuses messages over 21 MiB with an error event. Larger ones are not even read.
_MAX_READ_BYTES: Final = MAX_MESSAGE_BYTES + 1024 * 1024

MAX_RESUME_BYTES: Final = 4096
"""Size of the first message of a connection with `?resume=`, which has no session and no slot."""

GONE_CHECK_S: Final = 1.0
"""How often the system is asked whether a client that takes no data is still there."""

_log = logging.getLogger(__name__)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, with another end for a peer that does not read.

    The close frame is queued behind the data that waits, instead of waiting for room, and the
    socket is closed `FLUSH_S` after the session has ended. A peer that has ended its side is gone,
    also if it has not taken what was sent to it. The faults of a peer are one line of the log,
    where uvicorn logs errors and tracebacks.

    What a slow client has not taken waits in the session, which can discard it: the kernel and the
    transport hold about one frame each.
    """

    _gone_check: asyncio.TimerHandle | None = None
    _flush_end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Limit the data that the kernel buffers, which the session cannot see."""
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        socket_buffers.limit_unsent(transport)
        if isinstance(transport, asyncio.WriteTransport):
            # Without TLS, this is the only buffer above the kernel. The encrypted stream below a
            # TLS transport holds 64 KiB more. A limit of 0 would never end its pause.
            transport.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a connection that ended without a close frame as 1006.

        uvicorn reports 1005, as for a close frame without a code.
        """
        self._stop_gone_check()
        if self._flush_end is not None:
            self._flush_end.cancel()  # a transport that is closed cannot be aborted
        if self.handshake_complete and self.conn.close_rcvd is None and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """End the connection; asyncio would first wait until all data is sent."""
        if socket_buffers.unsent_bytes(self.transport):
            self.transport.abort()

    def pause_writing(self) -> None:
        """Ask from time to time whether the client is there; it may not be read now."""
        super().pause_writing()
        if self._gone_check is None:
            self._gone_check = self.loop.call_later(GONE_CHECK_S, self._check_gone)

    def resume_writing(self) -> None:
        """Stop asking whether the client is there."""
        self._stop_gone_check()
        super().resume_writing()

    def handle_close(self, event: Frame) -> None:
        """End the session of a client that closes, also if it does not take what waits for it."""
        super().handle_close(event)
        self.writable.set()

    def shutdown(self) -> None:
        """End the connection because the process stops.

        uvicorn would also send a close frame to a client that has sent one and that has not closed
        the socket yet: the library refuses that, and the process would end with its error.
        """
        if self.handshake_complete and self.conn.state is not State.OPEN:
            self.stop_keepalive()
            self.transport.close()
            return
        super().shutdown()

    def _check_gone(self) -> None:
        if peer_end(self.transport) is PeerEnd.NOTHING:
            self._gone_check = self.loop.call_later(GONE_CHECK_S, self._check_gone)
        else:
            self._gone_check = None
            self.transport.abort()

    def _stop_gone_check(self) -> None:
        if self._gone_check is not None:
            self._gone_check.cancel()
            self._gone_check = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message, and return when there is room for the next one.

        The session is asked for the next message only then. A close frame does not wait.

        Raises:
            ClientDisconnected: a close frame has been sent.
        """
        if message["type"] == "websocket.close":
            self.writable.set()
        if self.close_sent and message["type"] in ("websocket.send", "websocket.close"):
            # After a frame that is no WebSocket frame; the session has not read its end yet.
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.send":
            await self.writable.wait()
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # uvicorn would report an incomplete handshake as an error of the application.
            self.handshake_complete = self.close_sent = True

    def handle_connect(self, event: Request) -> None:
        """Answer a handshake, and log one that is refused."""
        query = parse_qs(urlsplit(event.path).query, keep_blank_values=True)
        if "resume" in query:
            self.conn.max_size = MAX_RESUME_BYTES
        super().handle_connect(event)
        if self.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            _log.info("handshake refused status=%d", self.response.status_code)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on, unless it is a text that is not UTF-8."""
        self.conn.max_size = self.config.ws_max_size  # the limit of a first message is over
        if self.curr_msg_data_type != "text" or self.close_sent or _is_utf8(self.frames):
            super().send_receive_event_to_app()
            return
        _log.info("closing a connection after invalid UTF-8 code=1007")
        self.frames = []
        self.conn.send_close(1007)
        self.handle_parser_exception()

    async def run_asgi(self) -> None:
        """Serve the connection, then close the socket."""
        await super().run_asgi()
        if not self.disconnected:
            self._flush_end = self.loop.call_later(FLUSH_S, self.transport.abort)


def _is_utf8(pieces: Sequence[bytes | bytearray | memoryview]) -> bool:
    data = b"".join(pieces)
    if data.isascii():  # the usual message, however large
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Server(uvicorn.Server):
    """A server that does not handle signals: uvicorn's handlers close live sessions."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and set `listens`."""
        await super().startup(sockets=[])
        for bound in sockets or ():
            self.servers.append(await self._listen(bound))
        self.listens.set()

    async def _listen(self, bound: socket.socket) -> asyncio.Server:
        """Listen on a socket; uvicorn gives a caller a minute for the handshake of TLS."""
        context = self.config.ssl
        return await asyncio.get_running_loop().create_server(
            self._new_protocol,
            sock=bound,
            ssl=context,
            backlog=self.config.backlog,
            ssl_handshake_timeout=None if context is None else tls.HANDSHAKE_S,
            ssl_shutdown_timeout=None if context is None else tls.SHUTDOWN_S,
        )

    def _new_protocol(self) -> asyncio.Protocol:
        return HTTPProtocol(self.config, self.server_state, self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Listeners:
    """The addresses on which a runtime listens, with the ports that replaced port 0."""

    sessions: Address
    admin: Address


async def serve(make: Callable[[], Runtime]) -> None:
    """Serve until SIGTERM or SIGINT and the end of the last session.

    `make` is called in the event loop and returns the runtime to serve.

    Raises:
        AssetError: a model or an avatar cannot be used.
        EngineError: the engine cannot start.
    """
    runtime = make()
    stop_signal = _signals()
    async with listening(runtime):
        _log.info("CPUs to compute on=%s", cpus.find())
        error = await until_end(runtime, stop_signal)
    if error is not None:
        raise error


@asynccontextmanager
async def listening(runtime: Runtime) -> AsyncIterator[Listeners]:
    """Listen on both ports and generate frames; stop all of it at the end.

    Raises:
        CertificateError: the certificate of the settings cannot be used.
    """
    files = runtime.settings.certificate
    certificate = None if files is None else tls.ServerCertificate(files)
    # Bind first: a port that is in use must stop the process, not a task.
    sockets = [_bind(runtime.settings.sessions_listen), _bind(runtime.settings.admin_listen)]
    sessions = LiveSessions(runtime)
    servers = [
        _server(app.create(runtime, sessions), certificate),
        _server(admin.create(runtime, sessions)),
    ]
    async with asyncio.TaskGroup() as group:
        serving = [
            group.create_task(server.serve(sockets=[bound]), name="listener")
            for server, bound in zip(servers, sockets, strict=True)
        ]
        helpers = [
            group.create_task(runtime.batcher.run(), name="batcher"),
            group.create_task(runtime.measure_lag(), name="loop lag"),
            group.create_task(runtime.follow_memory(), name="device memory"),
            group.create_task(runtime.follow_avatars(), name="avatars"),
        ]
        if certificate is not None:
            helpers.append(group.create_task(certificate.follow(), name="certificate"))
        for server in servers:
            await server.listens.wait()
        listeners = Listeners(*(Address(*bound.getsockname()[:2]) for bound in sockets))
        is_encrypted = "false" if certificate is None else "true"
        _log.info(
            "listening sessions=%s admin=%s tls=%s",
            listeners.sessions,
            listeners.admin,
            is_encrypted,
        )
        try:
            yield listeners
        finally:
            runtime.stop_watchers()
            for server in servers:
                server.should_exit = True
            await asyncio.wait(serving)
            for helper in helpers:
                helper.cancel()
            await runtime.stop()


async def until_end(runtime: Runtime, stop_signal: asyncio.Event) -> AvatarRuntimeError | None:
    """Start, wait for the signal and drain; return the error if the engine did not start."""
    stop = asyncio.create_task(stop_signal.wait(), name="signal")
    start = asyncio.create_task(runtime.start(), name="engine start")
    try:
        # The engine's thread cannot be interrupted: wait for it even after the signal.
        await start
        _freeze_garbage_collector()
        await stop
        await runtime.drain()
    except AvatarRuntimeError as error:
        return error
    finally:
        stop.cancel()
    return None


def _freeze_garbage_collector() -> None:
    """Exclude the objects of the start from garbage collection.

    A collection visits every object while all threads wait: 0.12 s of CPU for the 237,000 objects
    of a loaded torch, a visible stall. Afterwards it visits only the objects of sessions.
    """
    gc.collect()
    gc.freeze()


def _signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets."""
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.set)
    return received


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle's algorithm on the connections: with it, an
    # event waits up to 40 ms until the client has acknowledged the one before.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address.host, address.port))
    bound.set_inheritable(False)
    return bound


def _server(application: FastAPI, certificate: tls.ServerCertificate | None = None) -> _Server:
    context = None if certificate is None else certificate.context
    config = uvicorn.Config(
        application,
        ssl_context_factory=None if context is None else lambda *_: context,
        http=HTTPProtocol,
        ws=WebSocketProtocol,
        ws_max_size=_MAX_READ_BYTES,
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
