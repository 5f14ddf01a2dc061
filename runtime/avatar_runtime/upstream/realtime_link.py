"""The WebSocket between a session in mode bridge and its upstream."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from avatar_runtime.protocol.bridge.link_state import Link, UpstreamFault
from avatar_runtime.protocol.bridge.upstream_events import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from websockets.asyncio.client import ClientConnection

    from avatar_runtime.metrics import Metrics

PING_S: Final = 10.0
"""Pings find a connection that is broken without an end, seconds between them."""
SEND_S: Final = 10.0
"""Time in which the upstream must take a message, seconds."""
_CLOSE_S: Final = 1.0
_QUEUED_MESSAGES: Final = 16
_PERMANENT: Final = frozenset({400, 401, 403, 404})
_RATE_LIMITED: Final = 429

_log = logging.getLogger(__name__)
# The log of websockets has the headers of the handshake at level DEBUG, and so the key.
_socket_log = logging.getLogger(f"{__name__}.socket")
_socket_log.setLevel(logging.WARNING)


class UpstreamPeer(Protocol):
    """The session as its link sees it: `UpstreamSide` implements it."""

    @property
    def link(self) -> Link:
        """The state of the connection."""
        ...

    @property
    def can_receive(self) -> bool:
        """Whether the next message of the upstream may be read."""
        ...

    def pull(self) -> str | None:
        """Return the next message for the upstream, or `None`."""
        ...

    def receive(self, text: str, now: float) -> UpstreamFault | None:
        """Handle a message of the upstream, and return a fault that ends the connection."""
        ...

    def take_latencies(self) -> list[float]:
        """Return the new times from the end of a turn to the first audio, seconds."""
        ...

    def lose(self, fault: UpstreamFault, now: float, chance: float) -> None:
        """Handle the end of a connection or of a try."""
        ...


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How the upstream is reached."""

    url: str
    headers: Callable[[], Mapping[str, str]] = field(repr=False)
    """Returns the headers of a connection, with the key as of now."""
    secrets: Callable[[], tuple[str, ...]] = field(repr=False)
    """Returns the texts that are removed from what the upstream sends."""
    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 60.0
    """Time in which a ping must be answered, and the first event must come, seconds."""


def address(url: str, model: str) -> str:
    """Return the URL of a connection: `model` is added, unless the query has it already."""
    path, mark, query = url.partition("?")
    names = [pair.partition("=")[0] for pair in query.split("&")]
    if not model or "model" in names or "deployment" in names:
        return url
    return f"{path}{mark or '?'}{query}{'&' if query else ''}model={quote(model, safe='')}"


class _Connect(connect):
    """Follows no redirect: the headers have a key for one host."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the refusal as it is."""
        return exc


class _Lost(Exception):
    """A connection that ends because of `fault`."""

    def __init__(self, fault: UpstreamFault) -> None:
        super().__init__(fault)
        self.fault = fault


class RealtimeLink:
    """Connects a session to its upstream again and again, and moves the messages."""

    def __init__(
        self,
        peer: UpstreamPeer,
        options: LinkOptions,
        clock: Callable[[], float],
        *,
        session_id: str,
        changed: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        """`changed` is called after each change of the session."""
        self._session_id = session_id
        self._peer = peer
        self._options = options
        self._clock = clock
        self._changed = changed
        self._metrics = metrics
        self._wake = asyncio.Event()

    def notify(self) -> None:
        """Look for messages to send, and for room to read: the session has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep the session connected until there is no further try, or until cancelled."""
        while (at := self._peer.link.connects_at) is not None:
            await asyncio.sleep(max(0.0, at - self._clock()))
            self._peer.link.connect()
            try:
                await self._serve()
            except _Lost as lost:
                self._lose(lost.fault)

    def _lose(self, fault: UpstreamFault) -> None:
        self._metrics.count_upstream_fault(fault.code)
        self._peer.lose(fault, self._clock(), random.random())
        _log.warning(
            "upstream lost session=%s code=%s reason=%s final=%s",
            self._session_id,
            fault.code,
            fault.message,
            self._peer.link.is_closed,
        )
        self._changed()

    async def _serve(self) -> None:
        """Serve one connection until it ends.

        Raises:
            _Lost: it has ended, or could not be made.
        """
        socket = await self._open()
        self._peer.link.opened()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(socket), name="read upstream")
                group.create_task(self._write(socket), name="write upstream")
        except* _Lost as lost:
            fault = next(_leaves(lost))
            raise _Lost(fault) from None
        finally:
            await _close(socket)

    async def _open(self) -> ClientConnection:
        options = self._options
        try:
            return await _Connect(
                options.url,
                additional_headers=dict(options.headers()),
                user_agent_header="avatar-service",
                compression=None,
                open_timeout=options.connect_timeout_s,
                ping_interval=PING_S,
                ping_timeout=options.silence_timeout_s,
                close_timeout=_CLOSE_S,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=_QUEUED_MESSAGES,
                logger=_socket_log,
            )
        except InvalidStatus as refusal:
            response = refusal.response
            raise _Lost(refused(response.status_code, response.headers)) from None
        except TimeoutError:
            message = f"the upstream did not answer within {options.connect_timeout_s:g} s"
            raise _Lost(_unavailable(message)) from None
        except (OSError, InvalidHandshake, InvalidURI, ValueError) as error:
            # The message of the error may name an address that is no business of the client.
            message = f"the upstream cannot be reached: {type(error).__name__}"
            raise _Lost(_unavailable(message)) from None

    async def _read(self, socket: ClientConnection) -> None:
        greeting_until = self._clock() + self._options.silence_timeout_s
        while True:
            while not self._peer.can_receive:
                await self._wait()
            is_greeted = self._peer.link.is_open
            timeout_s = None if is_greeted else max(0.0, greeting_until - self._clock())
            try:
                async with asyncio.timeout(timeout_s):
                    message = await socket.recv()
            except TimeoutError:
                message = "the upstream sent no session.created in time"
                raise _Lost(_unavailable(message)) from None
            except ConnectionClosed as closed:
                raise _Lost(_closed(closed)) from None
            text = message if isinstance(message, str) else message.decode("utf-8", "replace")
            for secret in filter(None, self._options.secrets()):
                text = text.replace(secret, "***")
            fault = self._peer.receive(text, self._clock())
            for seconds in self._peer.take_latencies():
                self._metrics.observe_turn("upstream", seconds)
            if fault is not None:
                raise _Lost(fault)
            self._changed()
            self._wake.set()
            await asyncio.sleep(0)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            while (text := self._peer.pull()) is not None:
                try:
                    async with asyncio.timeout(SEND_S):
                        await socket.send(text)
                except TimeoutError:
                    message = f"the upstream accepted nothing for {SEND_S:g} s"
                    raise _Lost(_unavailable(message)) from None
                except ConnectionClosed as closed:
                    raise _Lost(_closed(closed)) from None
                self._changed()
            await self._wait()

    async def _wait(self) -> None:
        self._wake.clear()
        await self._wake.wait()


def refused(status: int, headers: Mapping[str, str]) -> UpstreamFault:
    """Return the fault of a handshake that the upstream answered with an HTTP status."""
    message = f"the upstream refused the connection: HTTP {status}"
    if status == _RATE_LIMITED:
        after = headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0
        return UpstreamFault("upstream_rate_limited", message, retry_after_s=seconds)
    if status in _PERMANENT:
        return UpstreamFault("upstream_refused", message, is_final=True)
    return _unavailable(message)


def _closed(closed: ConnectionClosed) -> UpstreamFault:
    code = "without a close frame" if closed.rcvd is None else f"with code {closed.rcvd.code}"
    return _unavailable(f"the upstream closed the connection {code}")


def _unavailable(message: str) -> UpstreamFault:
    return UpstreamFault("upstream_unavailable", message)


def _leaves(group: BaseExceptionGroup[_Lost]) -> Iterator[UpstreamFault]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error.fault


async def _close(socket: ClientConnection) -> None:
    """Close a socket, at most for its close timeout; the upstream need not answer."""
    try:
        async with asyncio.timeout(2 * _CLOSE_S):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()
