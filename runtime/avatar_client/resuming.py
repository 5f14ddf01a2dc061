"""A WebSocket that is opened again when it is lost: docs/wire-protocol.md, "Resume"."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn

from websockets.exceptions import ConnectionClosed

from avatar_client import errors
from avatar_client.positions import Position
from avatar_contracts import refusals
from avatar_contracts.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from websockets.asyncio.client import ClientConnection

RESUMABLE: Final = frozenset({1001, 1006, 1011, 1012, 4413})
"""Close codes after which the server holds the session."""
MAX_KEPT_BYTES: Final = 32 * 2**20
"""Sent messages that may have to be sent again; more than sockets on both sides hold."""
_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 1.0

_log = logging.getLogger(__name__)


class ResumingSocket:
    """The connection of a session, or the next one after it.

    One task reads with `recv` and reports each message with `took`. Any task may `send`. While the
    connection is lost, `send` waits. A message that was sent is sent again if the server does not
    have it.
    """

    def __init__(
        self,
        socket: ClientConnection,
        dial: Callable[[str], Awaitable[ClientConnection]] | None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`dial` opens a connection that continues the session with an id; `None`: never."""
        self.resumed = 0
        """How often the session went on after its connection was lost."""
        self._socket = socket
        self._dial = dial
        self._clock = clock
        self._session_id = ""
        self._token = ""
        self._ttl_s = 0.0
        self._last_seq = 0
        self._position = Position()
        self.lost_ms = 0.0
        """Speech that was lost with pods that ended without a warning, milliseconds."""
        self._sent = 0  # messages since the start of the session
        self._kept: deque[str | bytes] = deque()  # the newest of them
        self._kept_bytes = 0
        self._sending = asyncio.Lock()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._lost: ConnectionClosed | None = None
        self._is_closing = False

    def took(self, event: Mapping[str, Any]) -> None:
        """Take notice of a message that was received."""
        self._position.took(event)
        seq = event.get("seq")
        if isinstance(seq, int):
            self._last_seq = max(self._last_seq, seq)
        if event.get("type") == "session.created":
            self._keep_token(event)
        elif event.get("type") == "session.migrate" and isinstance(event.get("session_id"), str):
            self._session_id = event["session_id"]  # the pod of the former id is lost

    async def recv(self) -> str | bytes:
        """Return the next message.

        Raises:
            ConnectionClosed: the session has ended, or could not be continued.
        """
        while True:
            try:
                return await self._socket.recv()
            except ConnectionClosed as closed:
                await self._resume(closed)

    async def send(self, message: str | bytes) -> None:
        """Send a message, or leave it for the next connection.

        Raises:
            ConnectionClosed: the session has ended, or could not be continued.
        """
        async with self._sending:
            await self._is_open.wait()
            if self._lost is not None:
                raise self._lost
            self._keep(message)
            try:
                await self._socket.send(message)
            except ConnectionClosed as closed:
                if not self._is_resumable(closed):
                    raise
                # The reader finds it as well, and the message is among those that are kept.

    async def close(self) -> None:
        """Close the connection, and the session with it."""
        self._is_closing = True
        await self._socket.close()

    def _keep_token(self, event: Mapping[str, Any]) -> None:
        resume = event.get("resume")
        if isinstance(resume, dict):
            self._session_id = str(event["session"]["id"])
            self._token = str(resume["token"])
            self._ttl_s = float(resume["ttl_ms"]) / 1000

    def _keep(self, message: str | bytes) -> None:
        self._sent += 1
        self._kept.append(message)
        self._kept_bytes += len(message)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())

    def _is_resumable(self, closed: ConnectionClosed) -> bool:
        code = 1006 if closed.rcvd is None else closed.rcvd.code
        can_resume = self._dial is not None and bool(self._token) and not self._is_closing
        return can_resume and code in RESUMABLE

    async def _resume(self, closed: ConnectionClosed) -> None:
        """Continue the session on another connection.

        Raises:
            ConnectionClosed: the given one; the session cannot be continued.
        """
        if self._dial is None or not self._is_resumable(closed):
            self._lose(closed)
        self._is_open.clear()
        until = self._clock() + self._ttl_s
        backoff = Backoff(_FIRST_PAUSE_S, _MAX_PAUSE_S, random.random)
        while not self._is_closing:
            try:
                async with asyncio.timeout(max(0.0, until - self._clock())):
                    self._socket = await self._dial(self._session_id)
                    await self._continue()
            except (TimeoutError, _CannotResume) as error:
                _log.info("session not resumed error=%s", error)
                self._lose(closed)
            except (errors.AvatarClientError, ConnectionClosed, OSError, _NotYet) as error:
                _log.info("session not resumed yet error=%s", error)
            else:
                self.resumed += 1
                self._is_open.set()
                return
            await asyncio.sleep(backoff.next_s())
        self._lose(closed)

    async def _continue(self) -> None:
        """Send `session.resume`, and again what the server does not have.

        Raises:
            ConnectionClosed: the connection was lost, too.
            _CannotResume: the server refuses.
            _NotYet: the server may continue it later.
        """
        request = {
            "type": "session.resume",
            "token": self._token,
            "last_seq": self._last_seq,
            "received": self._position.describe(self._sent),
        }
        await self._socket.send(json.dumps(request))
        answer = json.loads(await self._socket.recv())
        if answer.get("type") != "session.resumed":
            await self._socket.wait_closed()
            is_final = self._socket.close_code not in (refusals.TRY_LATER_CLOSE, *RESUMABLE)
            raise (_CannotResume if is_final else _NotYet)(str(answer.get("error")))
        self._keep_token(answer)
        self.lost_ms += float(answer.get("lost_ms", 0))
        missing = self._sent - int(answer["input_messages"])
        if not 0 <= missing <= len(self._kept):
            raise _CannotResume(f"{missing} messages are missing, {len(self._kept)} are kept")
        for message in list(self._kept)[len(self._kept) - missing :]:
            await self._socket.send(message)

    def _lose(self, closed: ConnectionClosed) -> NoReturn:
        self._lost = closed
        self._is_open.set()
        raise closed


class _CannotResume(Exception):
    """The server does not continue the session."""


class _NotYet(Exception):
    """The server does not continue the session now."""
