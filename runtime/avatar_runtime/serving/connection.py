"""Moves the messages of one session between its socket and its protocol."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocketDisconnect

from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.dialects import translation

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.metrics import FrameKind
    from avatar_runtime.protocol.dialects.translation import Dialect
    from avatar_runtime.protocol.session import Outgoing, Session
    from avatar_runtime.serving.runtime import Runtime
    from avatar_runtime.serving.video_encoding import SessionEncoder

STALL_S: Final = 30.0  # docs/wire-protocol.md, "Flow control"

MAX_LOGGED: Final = 16
"""Events in the log that a client does not get, at most for each session."""

_log = logging.getLogger(__name__)


class Connection:
    """One WebSocket. The reader passes messages to the session, the writer pulls from it."""

    def __init__(
        self,
        websocket: WebSocket,
        session: Session[AudioWindow],
        runtime: Runtime,
        dialect: Dialect | None = None,
    ) -> None:
        """`dialect` is the form of the protocol that the client speaks, `None` for the GA form."""
        self._websocket = websocket
        self._session = session
        self._runtime = runtime
        self._dialect = dialect
        self._unsent = 0
        self._wake = asyncio.Event()
        self._can_read = asyncio.Event()
        self._can_read.set()
        self._end_reason: str | None = None
        self._shell = runtime.open_shell(session, self._apply)
        self._encoder: SessionEncoder | None = None  # until a frame needs it

    async def run(self) -> str:
        """Serve the session until it ends, and return how it ended."""
        batcher, session = self._runtime.batcher, self._session
        batcher.add(session, self._wake.set)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._read(), name=f"read {session.id}")]
                if self._shell is not None:
                    tasks.append(group.create_task(self._shell.run(), name=f"shell {session.id}"))
                await self._write()
                for task in tasks:
                    task.cancel()
        finally:
            batcher.remove(session.id)
            self._runtime.set_speaking(session.id, False)
        return self._end_reason or "unknown"

    def end(self, code: int, reason: str) -> None:
        """Close the connection after the messages that wait."""
        self._session.end(code, reason, self._runtime.clock())
        self._wake.set()

    async def _read(self) -> None:
        while True:
            # The socket of a client that does not read is not read either: TCP slows it down.
            await self._can_read.wait()
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._end_reason = self._end_reason or f"client left {message.get('code')}"
                self._wake.set()
                return
            text = message.get("text")
            data = message["bytes"] if text is None else text
            async with self._runtime.large_messages.turn(len(data)):
                if self._dialect is not None and text is not None:
                    data = translation.to_ga(self._dialect, text)
                self._session.receive(data, self._runtime.clock())
                # A microphone sends less than one part: its audio is searched at once.
                is_searching = self._session.listen(self._runtime.clock())
                self._apply()
            # Many small messages may wait: let the other sessions read as well.
            await asyncio.sleep(0)
            while is_searching:
                is_searching = self._session.listen(self._runtime.clock())
                self._apply()
                await asyncio.sleep(0)

    async def _write(self) -> None:
        try:
            while self._end_reason is None:
                self._session.tick(self._runtime.clock())
                await self._flush()
                closing = self._session.closing
                if closing is not None:
                    await self._close(closing.code, closing.reason)
                    return
                await self._wait(self._session.wakeup())
        except WebSocketDisconnect:
            self._end_reason = self._end_reason or "client vanished"
        except TimeoutError:
            await self._close(4413, "the socket took nothing for 30 s")

    async def _flush(self) -> None:
        """Send all messages that the session has.

        Raises:
            TimeoutError: the socket has accepted nothing for `STALL_S`.
        """
        while self._end_reason is None:
            outgoing = self._session.pull(self._runtime.clock())
            if outgoing is None:
                break
            text = await self._text(outgoing)
            if text is None:
                continue
            async with asyncio.timeout(STALL_S):
                await self._websocket.send_text(text)
            self._observe(outgoing)
            # A socket with room does not suspend: let the other sessions send as well.
            await asyncio.sleep(0)
        self._update()

    async def _text(self, outgoing: Outgoing) -> str | None:
        """Return what the client gets, `None` for a message that it does not get."""
        frame = outgoing.frame
        if frame is None or frame.encoding is None:
            return self._translated(outgoing)
        if self._encoder is None:
            self._encoder = self._runtime.video_encoders.open()
        try:
            return outgoing.with_access_unit(await self._encoder.encode(frame))
        except EncoderError as error:
            _log.error("frame not encoded session=%s error=%s", self._session.id, error)
            self._session.end(1011, "internal_error", self._runtime.clock())
            return None

    def _translated(self, outgoing: Outgoing) -> str | None:
        """Return what the client gets, `None` for an event that it does not know."""
        text = outgoing.text
        if self._session.official_only and not translation.is_official(self._dialect, text):
            self._unsent += 1
            if self._unsent <= MAX_LOGGED:
                _log.info("event not sent session=%s event=%.300s", self._session.id, text)
            return None
        if self._dialect is None or outgoing.frame is not None:  # a frame is the same in all
            return text
        return translation.from_ga(self._dialect, text)

    def _apply(self) -> None:
        self._update()
        self._wake.set()

    def _update(self) -> None:
        """Apply what the last messages changed: back-pressure, due frames, who is speaking."""
        session = self._session
        if session.can_receive:
            self._can_read.set()
        else:
            self._can_read.clear()
        self._runtime.batcher.collect_due(session.id)
        self._runtime.set_speaking(session.id, session.is_speaking)
        if self._shell is not None:
            self._shell.notify()

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - self._runtime.clock())):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _close(self, code: int, reason: str) -> None:
        self._end_reason = f"closed {code}"
        _log.info("session closed session=%s code=%d reason=%s", self._session.id, code, reason)
        await self._websocket.close(code, reason)

    def _observe(self, outgoing: Outgoing) -> None:
        if outgoing.frame is None:
            return
        now, metrics = self._runtime.clock(), self._runtime.metrics
        if outgoing.frame.is_idle:
            metrics.count_idle_sent()
            return
        kind: FrameKind = "drawn" if outgoing.frame.is_drawn else "silent"
        metrics.count_sent(kind, now - outgoing.frame.requested_at, now)
        if outgoing.speakable_at is not None:
            metrics.observe_first_frame(now - outgoing.speakable_at, now)
        if outgoing.heard_at is not None:
            metrics.observe_turn("avatar", now - outgoing.heard_at)
