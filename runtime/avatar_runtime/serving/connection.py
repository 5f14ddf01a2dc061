"""Moves the messages of one session between its socket and its protocol."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocketDisconnect

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.metrics import Kind
    from avatar_runtime.protocol.session import Outgoing, Session
    from avatar_runtime.serving.runtime import Runtime

STALL_S: Final = 30.0  # wire protocol §10

_log: Final = logging.getLogger(__name__)


class Connection:
    """One WebSocket. The reader gives to the session, the writer pulls from it."""

    def __init__(
        self, websocket: WebSocket, session: Session[AudioWindow], runtime: Runtime
    ) -> None:
        self._websocket = websocket
        self._session = session
        self._runtime = runtime
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._gone: str | None = None

    async def run(self) -> str:
        """Serve the session to its end, and return how it ended."""
        pump, session = self._runtime.pump, self._session
        pump.add(session, self._news.set)
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(), name=f"read {session.id}")
                await self._write()
                reader.cancel()
        finally:
            pump.remove(session.id)
            self._runtime.note_speaking(session.id, False)
        return self._gone or "unknown"

    def end(self, code: int, reason: str) -> None:
        """Close the connection after what waits."""
        self._session.end(code, reason, self._runtime.clock())
        self._news.set()

    async def _read(self) -> None:
        while True:
            # Who does not read the answers is not read either; TCP tells the client.
            await self._room.wait()
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._gone = self._gone or f"client left {message.get('code')}"
                self._news.set()
                return
            data = message.get("text")
            self._session.receive(message["bytes"] if data is None else data, self._runtime.clock())
            self._settle()
            self._news.set()
            # Many small messages may wait: let the other sessions read as well.
            await asyncio.sleep(0)

    async def _write(self) -> None:
        try:
            while self._gone is None:
                self._session.tick(self._runtime.clock())
                await self._drain()
                closing = self._session.closing
                if closing is not None:
                    await self._close(closing.code, closing.reason)
                    return
                await self._wait(self._session.wakeup())
        except WebSocketDisconnect:
            self._gone = self._gone or "client vanished"
        except TimeoutError:
            await self._close(4413, "the socket took nothing for 30 s")

    async def _drain(self) -> None:
        """Send all that there is; raises `TimeoutError` if the socket takes nothing."""
        while self._gone is None:
            outgoing = self._session.pull(self._runtime.clock())
            if outgoing is None:
                break
            async with asyncio.timeout(STALL_S):
                await self._websocket.send_text(outgoing.text)
            self._observe(outgoing)
            # A socket with room does not suspend: let the other sessions send as well.
            await asyncio.sleep(0)
        self._settle()

    def _settle(self) -> None:
        """Pass on what the last messages changed: back-pressure, due frames, who speaks."""
        session = self._session
        if session.can_receive:
            self._room.set()
        else:
            self._room.clear()
        self._runtime.pump.attend(session.id)
        self._runtime.note_speaking(session.id, session.is_speaking)

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - self._runtime.clock())):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def _close(self, code: int, reason: str) -> None:
        self._gone = f"closed {code}"
        _log.info("session closed session=%s code=%d reason=%s", self._session.id, code, reason)
        await self._websocket.close(code, reason)

    def _observe(self, outgoing: Outgoing) -> None:
        if outgoing.frame is None:
            return
        now, metrics = self._runtime.clock(), self._runtime.metrics
        kind: Kind = "drawn" if outgoing.frame.is_drawn else "silent"
        metrics.count_sent(kind, now - outgoing.frame.requested_at, now)
        if outgoing.speakable_at is not None:
            metrics.observe_first_frame(now - outgoing.speakable_at, now)
