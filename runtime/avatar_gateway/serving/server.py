"""The listener of one application: it accepts connections within limits.

asyncio's own listener tries to accept up to 128 times in a loop when the process has no file
descriptor left, and writes a traceback each time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from avatar_contracts import tls
from avatar_contracts.addresses import address_key
from avatar_gateway.core.connections import (
    Admission,
    ConnectionTable,
    Limits,
    Refusal,
    client_of,
    is_trusted,
)
from avatar_gateway.serving import answers
from avatar_gateway.serving.connection import Connection, SmallReads, connection_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence

    from aiohttp.typedefs import Handler

    from avatar_gateway.core.connections import IPNetwork
    from avatar_gateway.settings import Address

_log = logging.getLogger(__name__)

ADMIN_LIMITS: Final = Limits(256, 256)
"""The administration port: the probes, Prometheus and the operators."""
_BACKLOG: Final = 1024
_ACCEPTS_PER_TURN: Final = 64
"""Connections that are accepted before others get their turn."""
_RETRY_S: Final = 0.5
"""After the system had no resources for a connection."""


class Listener:
    """Accepts the connections of one port."""

    def __init__(
        self,
        limits: Limits,
        trusted_proxies: Sequence[IPNetwork] = (),
        count: Callable[[str], None] = lambda _: None,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`count` counts a connection that is refused or closed, by its reason.

        With `tls_context` the port serves TLS only.
        """
        self.count = count
        self._table: ConnectionTable[Connection] = ConnectionTable(limits)
        self._trusted = trusted_proxies
        self._tls = tls_context
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retries: set[asyncio.TimerHandle] = set()
        self._server: web.Server | None = None

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._table)

    @web.middleware
    async def _follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell the connection when it handles a request."""
        connection = connection_of(request)
        client, connection.caller = None, address_key(connection.peer)
        if is_trusted(connection.peer, self._trusted):
            client = client_of(request.headers.getall("X-Forwarded-For", []), self._trusted)
            connection.caller = client
        try:
            if not connection.request_started(client):
                self.count(Refusal.ADDRESS.value)
                return answers.of_rejection(answers.too_many_connections(Refusal.ADDRESS))
            return await handler(request)
        finally:
            connection.request_ended()

    def on_request(self, connection: Connection, client: str | None) -> bool:
        """Record a request of a connection; `client` is the client of a trusted proxy."""
        self._table.set_waiting(connection, is_waiting=False)
        if client is None:
            return True
        admission = self._table.set_address(connection, client)
        self._make_room(admission)
        return admission.refusal is None

    def on_message(self, connection: Connection) -> None:
        """Record that a connection waits no more for what was asked of it."""
        self._table.set_waiting(connection, is_waiting=False)

    def on_waiting(self, connection: Connection) -> None:
        """Record that a connection waits for its next request or its first message."""
        self._table.set_waiting(connection, is_waiting=True)

    def on_closed(self, connection: Connection) -> None:
        """Record that a connection has ended."""
        self._table.remove(connection)

    @asynccontextmanager
    async def listening(self, application: web.Application, address: Address) -> AsyncIterator[int]:
        """Serve an application while the body runs, and yield the port."""
        application.middlewares.insert(0, answers.as_json)
        application.middlewares.append(self._follow)
        # The shutdown timeout is short because the connections of state watchers never end by
        # themselves.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._server = runner.server
        sockets = await _bind(address)
        try:
            for listening_socket in sockets:
                self._start(listening_socket)
            port = int(sockets[0].getsockname()[1])
            _log.info("listening host=%s port=%d", address.host, port)
            yield port
        finally:
            self._stop(sockets)
            await runner.cleanup()

    def _start(self, listening_socket: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(listening_socket, self._accept, listening_socket)

    def _stop(self, sockets: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for retry in self._retries:
            retry.cancel()
        for task in self._tasks:
            task.cancel()
        for listening_socket in sockets:
            loop.remove_reader(listening_socket)
            listening_socket.close()

    def _accept(self, listening_socket: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, address = listening_socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listening_socket, error)
                return
            self._admit(accepted, str(address[0]))

    def _pause(self, listening_socket: socket.socket, error: OSError) -> None:
        """Accept no connection for a short time: the system has no resources for one."""
        self.count("descriptors")
        _log.error("cannot accept connections error=%s retry_s=%g", error.strerror, _RETRY_S)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening_socket)

        def resume() -> None:
            self._retries.discard(retry)
            self._start(listening_socket)

        retry = loop.call_later(_RETRY_S, resume)
        self._retries.add(retry)

    def _admit(self, accepted: socket.socket, peer: str) -> None:
        assert self._server is not None
        accepted.setblocking(False)
        loop = asyncio.get_running_loop()
        connection = Connection(self._server, loop, self, peer)
        counted = None if is_trusted(peer, self._trusted) else address_key(peer)
        admission = self._table.admit(connection, counted)
        if admission.refusal is not None:
            self.count(admission.refusal.value)
            self._refuse(accepted, admission.refusal)
            return
        self._make_room(admission)
        task = loop.create_task(self._serve(connection, accepted), name="connection")
        self._tasks.add(task)
        connection.abort_handshake = task.cancel
        task.add_done_callback(self._tasks.discard)

    def _make_room(self, admission: Admission[Connection]) -> None:
        if admission.displaced is not None:
            self.count("displaced")
            admission.displaced.close_at_once()

    async def _serve(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(
                lambda: SmallReads(connection),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else tls.HANDSHAKE_S,
                ssl_shutdown_timeout=None if self._tls is None else tls.SHUTDOWN_S,
            )
        except BaseException as error:
            self._table.remove(connection)
            accepted.close()
            if not isinstance(error, OSError):  # a handshake that failed is one, too
                raise

    def _refuse(self, accepted: socket.socket, refusal: Refusal) -> None:
        """Answer without reading a request, and close the connection.

        A caller that expects TLS gets no answer.
        """
        try:
            if self._tls is None:
                accepted.send(answers.raw(answers.too_many_connections(refusal)))
        except OSError:
            pass
        finally:
            accepted.close()


async def _bind(address: Address) -> Sequence[socket.socket]:
    """Return the listening sockets of an address; a name may have several addresses."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(where)
            bound.listen(_BACKLOG)
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets
