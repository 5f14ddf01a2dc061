"""One HTTP connection of a caller: its deadlines, and its answers to malformed requests."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from aiohttp.web_protocol import RequestHandler

from avatar_contracts import socket_buffers, tls
from avatar_gateway.serving import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

REQUEST_S: Final = 10.0
"""From the connection, or from the first byte of a later request, to the end of its headers."""
WRITE_S: Final = 30.0
"""How long a caller may leave an answer unread before its connection is closed."""
IDLE_S: Final = 630.0
"""How long a connection may stay open between requests; proxies in front reuse idle ones."""
_READ_BUFFER: Final = memoryview(bytearray(8 * 1024))
"""What one read may take. libuv reads up to 32 times before anything else runs, also before a
handshake is refused, so that its own reads of 256 KB would let one caller fill 8 MiB."""
_END_OF_HEADERS: Final = b"\r\n\r\n"

_log = logging.getLogger(__name__)


class ConnectionListener(Protocol):
    """The port that a connection belongs to."""

    count: Callable[[str], None]
    """Count a connection that is refused or closed, by reason."""

    def on_request(self, connection: Connection, client: str | None) -> bool:
        """Record a request; return whether its client is within the limit."""
        ...

    def on_message(self, connection: Connection) -> None:
        """Record that a connection waits no more for what was asked of it."""
        ...

    def on_waiting(self, connection: Connection) -> None:
        """Record that a connection waits for its next request or its first message."""
        ...

    def on_closed(self, connection: Connection) -> None:
        """Record that a connection has ended."""
        ...


class Connection(RequestHandler):
    """aiohttp's connection with deadlines.

    A connection whose deadline has passed is closed without an answer. A WebSocket has its own
    rules (`serving/peer.py`).
    """

    __slots__ = (
        "_deadline",
        "_is_awaited",
        "_is_busy",
        "_is_closed",
        "_is_partial",
        "_is_upgraded",
        "_listener",
        "abort_handshake",
        "caller",
        "on_lost",
        "peer",
    )

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        listener: ConnectionListener,
        peer: str,
    ) -> None:
        # No access log: a URL may contain a credential.
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as AppRunner passes it
            keepalive_timeout=IDLE_S,
        )
        self.peer = peer
        self.caller: str | None = None
        """The address that the last request counts for, None for a client that is not known."""
        self.abort_handshake: Callable[[], object] = lambda: None
        """Ends the handshake of TLS, which precedes `connection_made`."""
        self.on_lost: Callable[[], object] = lambda: None
        """Ends the work for a request whose caller has left."""
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None
        self._is_awaited = False
        self._is_busy = False
        self._is_upgraded = False
        self._is_closed = False
        self._is_partial = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline of the first request."""
        if transport.get_extra_info("sslcontext") is not None:
            # The transports of uvloop do not inherit from those of asyncio.
            cast("asyncio.WriteTransport", transport).set_write_buffer_limits(
                tls.WRITE_BUFFER_BYTES
            )
        super().connection_made(transport)
        if self._is_closed:
            self.close_at_once()
        else:
            self._set_deadline(REQUEST_S)

    def data_received(self, data: bytes) -> None:
        """Handle the data; a part of a request does not extend its deadline."""
        self._is_partial = not data.endswith(_END_OF_HEADERS)
        if not (self._is_busy or self._is_upgraded):
            self._set_deadline(REQUEST_S)
        super().data_received(data)

    def eof_received(self) -> None:
        """End a WebSocket whose caller has ended its side.

        asyncio would first wait until the caller has taken what was written to it.
        """
        super().eof_received()
        transport = self.transport
        if self._is_upgraded and transport is not None and socket_buffers.unsent_bytes(transport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Clear the deadline."""
        self._clear_deadline()
        self._listener.on_closed(self)
        self.on_lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the deadline of an answer that is not read."""
        super().pause_writing()
        if not self._is_upgraded:
            self._clear_deadline()
            self._set_deadline(WRITE_S)

    def resume_writing(self) -> None:
        """Clear the deadline of the answer."""
        super().resume_writing()
        if not self._is_upgraded:
            self._clear_deadline()

    def set_parser(self, *args: Any, **kwargs: Any) -> None:
        """Hand the connection to a WebSocket, which has its own deadlines."""
        self._is_upgraded = True
        self._clear_deadline()
        super().set_parser(*args, **kwargs)

    def request_started(self, client: str | None) -> bool:
        """Record that a complete request has arrived from `client`, None for the peer itself.

        Returns:
            Whether the client is within its limit of connections.
        """
        self._is_busy = True
        self._clear_deadline()
        return self._listener.on_request(self, client)

    def request_ended(self) -> None:
        """Record that a request is answered; a session stays busy until its connection ends."""
        if self._is_upgraded:
            return
        self._is_busy = False
        self._listener.on_waiting(self)
        if self._is_partial:  # what has arrived may contain the beginning of the next request
            self._set_deadline(REQUEST_S)

    def message_awaited(self) -> None:
        """Record that the WebSocket waits for its first message: it makes room for others."""
        self._is_awaited = True
        self._listener.on_waiting(self)

    def message_arrived(self) -> None:
        """Record that the WebSocket has a message, and waits no more."""
        if self._is_awaited:
            self._is_awaited = False
            self._listener.on_message(self)

    def close_at_once(self) -> None:
        """Close the connection, which may not be open yet."""
        self._is_closed = True
        if self.transport is not None:
            self.transport.abort()
        else:
            self.abort_handshake()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request. Neither the answer nor the log repeats a part of it."""
        _log.warning(
            "malformed request status=%d error=%s peer=%s", status, type(exc).__name__, self.peer
        )
        return answers.malformed(status)

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(seconds, self._end_at_deadline)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_at_deadline(self) -> None:
        self._listener.count("deadline")
        self.close_at_once()


class SmallReads(asyncio.BufferedProtocol):
    """What a transport calls for a connection, so that each of its reads takes at most 8 KiB.

    It cannot be the connection itself: uvloop lets no `asyncio.Protocol` choose its buffer.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand over the transport."""
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport puts what arrives next; it is handled before the next read."""
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what has arrived."""
        self._connection.data_received(bytes(_READ_BUFFER[:nbytes]))

    def eof_received(self) -> None:
        """Pass on the end of what the caller sends."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the transport is full."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport is not full any more."""
        self._connection.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass on the end of the connection."""
        self._connection.connection_lost(exc)


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection of a request."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection
