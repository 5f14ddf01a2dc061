"""Moves the messages of one session between its socket and its protocol."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from starlette.websockets import WebSocketDisconnect

from avatar_contracts import refusals
from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.dialects import translation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.websockets import WebSocket

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.metrics import FrameKind
    from avatar_runtime.protocol.dialects.translation import Dialect
    from avatar_runtime.protocol.replay import ReplayMemory
    from avatar_runtime.protocol.resume import ResumeTokens
    from avatar_runtime.protocol.session import Outgoing, Session
    from avatar_runtime.serving.runtime import Runtime
    from avatar_runtime.serving.session_clock import SessionClock
    from avatar_runtime.serving.video_encoding import SessionEncoder

STALL_S: Final = 30.0  # docs/wire-protocol.md, "Flow control"

_LEAVE_S: Final = 1.0
_TELL_S: Final = 0.2

MAX_LOGGED: Final = 16
"""Events in the log that a client does not get, at most for each session."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How a connection has ended."""

    how: str
    is_resumable: bool
    """Whether the session may continue on another connection."""


class Carried(Protocol):
    """The session of a connection: `LiveSession` implements it."""

    @property
    def session(self) -> Session[AudioWindow]:
        """The session without I/O."""

    @property
    def runtime(self) -> Runtime:
        """What the sessions of the pod share."""

    @property
    def clock(self) -> SessionClock:
        """The time of the session."""

    @property
    def tokens(self) -> ResumeTokens:
        """The tokens with which the client can continue the session."""

    @property
    def replay(self) -> ReplayMemory:
        """The messages that the client may ask for again."""

    @property
    def encoder(self) -> SessionEncoder:
        """The encoder of its frames."""

    @property
    def dialect(self) -> Dialect | None:
        """The form of the protocol that the client speaks, `None` for the GA form."""

    frames_sent: int
    """Frames of responses that were sent to the client."""

    def update(self) -> None:
        """Apply what has changed in the session."""

    def tick(self) -> None:
        """Apply the time limits."""

    def wait_s(self) -> float:
        """Return when `tick` must be called next, seconds from now."""


class Connection:
    """One WebSocket. The reader passes messages to the session, the writer pulls from it."""

    def __init__(self, websocket: WebSocket, live: Carried) -> None:
        self._websocket = websocket
        self._live = live
        self._session = live.session
        self._runtime = live.runtime
        self._unsent = 0
        self._wake = asyncio.Event()
        self._can_read = asyncio.Event()
        self._can_read.set()
        self._ended: ConnectionEnd | None = None
        self._unnumbered: deque[str] = deque()

    async def run(self, first: Sequence[str | bytes] = ()) -> ConnectionEnd:
        """Send `first`, then serve the session until the connection ends, and return how it did."""
        self.wake()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(), name=f"read {self._session.id}")
            await self._write(first)
            if self._ended is None:
                # The socket refused a message: what the client sent last says why.
                self._can_read.set()
                await asyncio.wait([reader], timeout=_LEAVE_S)
            reader.cancel()
        return self._ended or ConnectionEnd("client vanished", is_resumable=True)

    def wake(self) -> None:
        """Look at the session: it may have messages to send, or room for those of the client."""
        if self._session.can_receive:
            self._can_read.set()
        else:
            self._can_read.clear()
        self._wake.set()

    def tell(self, message: str) -> None:
        """Send a message without a number before the next one that has a number."""
        self._unnumbered.append(message)
        self._wake.set()

    async def replace(self, code: int, reason: str) -> None:
        """Close the connection at once: the session continues on another one."""
        if self._ended is None:
            self._ended = ConnectionEnd("replaced", is_resumable=True)
            self._wake.set()
            # Starlette raises RuntimeError for a connection that is closed already.
            with suppress(WebSocketDisconnect, RuntimeError):
                with suppress(TimeoutError):  # a socket without room gets the close frame alone
                    async with asyncio.timeout(_TELL_S):
                        while self._unnumbered:
                            await self._websocket.send_text(self._unnumbered.popleft())
                await self._websocket.close(code, reason)

    async def _read(self) -> None:
        session, clock = self._session, self._live.clock
        await self._search()  # in what a connection before this one has not searched
        while True:
            # The socket of a client that does not read is not read either: TCP slows it down.
            await self._can_read.wait()
            message = await self._websocket.receive()
            if self._ended is not None:
                return
            if message["type"] == "websocket.disconnect":
                self._leave(message.get("code"))
                return
            text = message.get("text")
            data = message["bytes"] if text is None else text
            async with self._runtime.large_messages.turn(len(data)):
                if self._ended is not None:  # another connection is next: the message is lost
                    return
                self._live.tokens.confirm()
                if self._live.dialect is not None and text is not None:
                    data = translation.to_ga(self._live.dialect, text)
                session.receive(data, clock())
                # A microphone sends less than one part: its audio is searched at once.
                is_searching = session.listen(clock())
                self._apply()
            # Many small messages may wait: let the other sessions read as well.
            await asyncio.sleep(0)
            if is_searching:
                await self._search()

    async def _search(self) -> None:
        """Search all audio that waits for speech."""
        while self._session.listen(self._live.clock()):
            self._apply()
            await asyncio.sleep(0)
        self._apply()

    def _leave(self, code: int | None) -> None:
        if self._ended is None:
            self._ended = ConnectionEnd(f"client left {code}", code in refusals.RESUMABLE_CODES)
        self._wake.set()

    async def _write(self, first: Sequence[str | bytes]) -> None:
        try:
            for message in first:
                await self._send(message)
            while self._ended is None:
                self._live.tick()
                await self._flush()
                closing = self._session.closing
                if closing is not None and self._ended is None:
                    await self._close(closing.code, closing.reason, is_resumable=False)
                    return
                if self._ended is None:
                    await self._wait(self._live.wait_s())
        except WebSocketDisconnect:
            return
        except TimeoutError:
            if self._ended is None:
                await self._close(4413, "the socket took nothing for 30 s", is_resumable=True)

    async def _flush(self) -> None:
        """Send all messages that the session has.

        Raises:
            TimeoutError: the socket has accepted nothing for `STALL_S`.
        """
        while self._ended is None:
            if self._unnumbered:
                await self._send(self._unnumbered.popleft())
                continue
            outgoing = self._session.pull(self._live.clock())
            if outgoing is None:
                break
            message = await self._message(outgoing)
            if message is None:
                continue
            is_frame = outgoing.frame is not None
            # Before it is sent: what a lost connection has swallowed is sent again.
            if outgoing.seq:
                self._live.replay.add(outgoing.seq, message, is_frame=is_frame)
            await self._send(message)
            self._observe(outgoing)
            # A socket with room does not suspend: let the other sessions send as well.
            await asyncio.sleep(0)
        self._live.replay.forget(self._session.acked_seq)
        self._live.update()

    async def _send(self, message: str | bytes) -> None:
        """Send a message, unless the connection has ended.

        Raises:
            TimeoutError: the socket has accepted nothing for `STALL_S`.
        """
        if self._ended is not None:
            return
        async with asyncio.timeout(STALL_S):
            if isinstance(message, str):
                await self._websocket.send_text(message)
            else:
                await self._websocket.send_bytes(message)

    async def _message(self, outgoing: Outgoing) -> str | bytes | None:
        """Return what the client gets, `None` for a message that it does not get."""
        frame = outgoing.frame
        if frame is None or frame.encoding is None:
            return self._translated(outgoing)
        live = self._live
        try:
            return outgoing.with_access_unit(await live.encoder.encode(frame))
        except EncoderError as error:
            _log.error("frame not encoded session=%s error=%s", self._session.id, error)
            self._session.end(1011, "internal_error", live.clock())
            return None

    def _translated(self, outgoing: Outgoing) -> str | bytes | None:
        """Return what the client gets, `None` for an event that it does not know."""
        text = outgoing.message
        if isinstance(text, bytes):  # only a client that knows this form has asked for it
            return text
        if self._session.official_only and not translation.is_official(self._live.dialect, text):
            self._unsent += 1
            if self._unsent <= MAX_LOGGED:
                _log.info("event not sent session=%s event=%.300s", self._session.id, text)
            return None
        if self._live.dialect is None or outgoing.frame is not None:  # a frame is the same in all
            return text
        return translation.from_ga(self._live.dialect, text)

    def _apply(self) -> None:
        self._live.update()
        self.wake()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _close(self, code: int, reason: str, *, is_resumable: bool) -> None:
        self._ended = ConnectionEnd(f"closed {code}", is_resumable)
        _log.info("session closed session=%s code=%d reason=%s", self._session.id, code, reason)
        await self._websocket.close(code, reason)

    def _observe(self, outgoing: Outgoing) -> None:
        if outgoing.frame is None:
            return
        now, metrics = self._live.clock(), self._runtime.metrics
        if outgoing.frame.is_idle:
            metrics.count_idle_sent()
            return
        self._live.frames_sent += 1
        kind: FrameKind = "drawn" if outgoing.frame.is_drawn else "silent"
        at = self._runtime.clock()
        metrics.count_sent(kind, now - outgoing.frame.requested_at, at)
        if outgoing.speakable_at is not None:
            metrics.observe_first_frame(now - outgoing.speakable_at, at)
        if outgoing.heard_at is not None:
            metrics.observe_turn("avatar", now - outgoing.heard_at)
