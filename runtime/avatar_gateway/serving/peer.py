"""One side of a session: the WebSocket on an HTTP connection that was upgraded.

aiohttp makes and accepts the connections; from the upgrade on, it hands the bytes to a `Peer`.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from aiohttp.http import StreamWriter

from avatar_contracts import socket_buffers
from avatar_contracts.tcp import PeerEnd, peer_end
from avatar_gateway.core import frames
from avatar_gateway.core.frames import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.base_protocol import BaseProtocol

    from avatar_gateway.core.memory_budget import MemoryBudget

MAX_MESSAGE_BYTES: Final = 21 * 2**20
"""Largest message of the protocol."""
TURN_FRAMES: Final = 100
"""Frames of one connection that are handled before other connections get their turn."""
HEARTBEAT_S: Final = 40.0
"""Idle time before a ping; anything must arrive within half of that.

A pod closes a connection that accepts no data for 30 s. The gateway waits longer, so that a slow
client receives the pod's close reason.
"""
_PAUSE_BYTES: Final = 64 * 1024
"""Unread bytes at which the connection stops reading from the network."""
_BUDGET_POLL_S: Final = 0.05
_SLOWED_CHECK_S: Final = 1.0
"""How often a side that is slowed down is asked whether it is still there."""
_UNSENT_CHECK_S: Final = 1.0
"""How often a side that does not take its data is checked for the end of what it sends."""
_CLOSE_TIMEOUT_S: Final = 5.0
"""How long a side may take to answer a close frame."""
_LINGER_BYTES: Final = 256 * 1024
"""What a side may still send after the gateway sent a close frame; it is dropped."""


class ConnectionLost(ConnectionError):
    """The connection ended without a close frame."""


class EarlyInputTooLarge(Exception):
    """A caller sent more than the limit before its session started."""


class Peer:
    """Reads segments of frames from a side, and writes frames to it."""

    def __init__(
        self,
        protocol: BaseProtocol,
        budget: MemoryBudget,
        *,
        is_pod: bool,
        subprotocol: str | None = None,
        session_id: str | None = None,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        assert protocol.transport is not None
        self.subprotocol = subprotocol
        self.resume_s = 0
        """How long a pod holds the session when this connection is lost, seconds."""
        self.forwarded_bytes = 0
        """Data frames of the other side that were written here, bytes."""
        self.session_id = session_id
        """The session that a pod says this connection is for; None if it does not say."""
        self._protocol = protocol
        self._transport = protocol.transport
        self._budget = budget
        self._is_pod = is_pod
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._writer = StreamWriter(protocol, self._loop)
        self._frames = frames.FrameReader(masked=not is_pod, max_message_bytes=MAX_MESSAGE_BYTES)
        self._early = bytearray()
        self._early_frames = 0
        self._early_limit: int | None = None
        self._is_reading = True
        self._is_slowed = False
        self._slowed_check: asyncio.TimerHandle | None = None
        self._unsent_check: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._is_mid_frame = False
        self._has_closed = False
        self._has_ended = False
        self._pending = b""
        self._arrived = asyncio.Event()
        self._heard_at = self._loop.time()
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._check_alive)
        budget.update(self, 0)
        # A caller that reads slowly must slow down its pod: only that can still discard frames.
        (socket_buffers.limit_unread if is_pod else socket_buffers.limit_unsent)(self._transport)

    @property
    def is_lost(self) -> bool:
        """Return whether the connection has ended; what arrived before can still be read."""
        return self._is_lost

    # aiohttp calls these two methods; it takes the object for a WebSocket parser.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what arrived from the network."""
        self._heard_at = self._loop.time()
        self._frames.feed(data)
        if self._frames.buffered >= _PAUSE_BYTES or self._budget.must_wait(self):
            self._pause()
        self._account()
        self._arrived.set()
        return False, b""

    def feed_eof(self) -> None:
        """Take note that the connection ended."""
        self._is_lost = True
        self._heartbeat.cancel()
        for check in (self._slowed_check, self._unsent_check):
            if check is not None:
                check.cancel()
        self._budget.remove(self)
        self._arrived.set()

    async def hold(self, limit: int) -> None:
        """Keep what a waiting caller sends, until this coroutine is cancelled.

        Raises:
            ConnectionLost: the caller left.
            EarlyInputTooLarge: it sent more than `limit` bytes.
        """
        self._early_limit = limit
        try:
            while True:
                segment = await self.read()
                self._early += segment.forward
                self._early_frames += segment.frames
                if segment.close is not None:
                    raise ConnectionLost("the caller closed the connection")
        finally:
            self._early_limit = None

    def take_early(self) -> frames.Segment:
        """Return what `hold` kept."""
        early, self._early = bytes(self._early), bytearray()
        return frames.Segment(early, is_mid_frame=False, frames=self._early_frames)

    async def read(self) -> frames.Segment:
        """Return the next segment that is not empty, and answer its pings.

        Raises:
            ConnectionLost: the connection ended without a close frame.
            EarlyInputTooLarge: the limit of `hold` is exceeded.
        """
        while True:
            self._arrived.clear()
            limit = self._early_limit
            if limit is not None and self._frames.buffered + len(self._early) > limit:
                raise EarlyInputTooLarge
            segment = self._frames.read(TURN_FRAMES)
            if segment.pings:
                self.send(Opcode.PONG, segment.pings[-1])
            if segment.close is not None:
                self._has_closed = not segment.close.is_violation
            if segment.forward or segment.frames or segment.close is not None:
                self._account()
                return segment
            if self._is_lost:
                raise ConnectionLost("the connection was lost")
            await self._wait_for_data()

    def forward(self, segment: frames.Segment) -> None:
        """Write the data frames of a segment from the other side.

        Raises:
            ConnectionLost: the connection ended.
        """
        if not segment.forward:
            return
        self.forwarded_bytes += len(segment.forward)
        self._write(segment.forward)
        self._is_mid_frame = segment.is_mid_frame
        if self._pending and not self._is_mid_frame:
            pending, self._pending = self._pending, b""
            self._write(pending)

    async def drain(self) -> None:
        """Wait until the side has taken enough of what was written."""
        if self._protocol.writing_paused:
            self._account(self._unsent_bytes())
            await self._writer.drain()
            self._account()

    def send(self, opcode: Opcode, payload: bytes) -> None:
        """Send a frame of the gateway itself, if the side takes data.

        A side that takes none gets no frame: it is a pong, a ping or a position in a queue, which
        a later one replaces.
        """
        if self._protocol.writing_paused or self._transport.is_closing():
            return
        frame = frames.encode(opcode, payload, self._mask())
        if self._is_mid_frame:
            self._pending = frame
        else:
            self._write(frame)

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, wait for the answer a short time, and close the connection.

        Within a frame, the connection ends without a close frame.
        """
        try:
            if self._is_mid_frame or self._transport.is_closing():
                return
            self._write(frames.encode_close(code, reason, self._mask()))
            if not self._has_closed:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._skip_to_close()
        except (ConnectionLost, TimeoutError):
            pass
        finally:
            self._end()

    async def _skip_to_close(self) -> None:
        dropped = self._frames.buffered
        self._early_limit = None
        while dropped <= _LINGER_BYTES:
            segment = await self.read()
            if segment.close is not None:
                return
            dropped += len(segment.forward)
            await asyncio.sleep(segment.frames / 1e4)  # of frames without content, too

    def _end(self) -> None:
        """Close the connection; what the side does not take within a short time is dropped."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._unsent_bytes():
            self._loop.call_later(_CLOSE_TIMEOUT_S, self._abort_unsent)
        self._transport.close()
        self._frames.clear()
        self.feed_eof()
        self._on_closed()

    def _abort_unsent(self) -> None:
        if self._is_connected:
            self._transport.abort()

    @property
    def _is_connected(self) -> bool:
        """Whether the transport can still be asked; asyncio raises when it has ended."""
        return self._protocol.transport is not None

    def _unsent_bytes(self) -> int:
        return socket_buffers.unsent_bytes(self._transport) if self._is_connected else 0

    async def _wait_for_data(self) -> None:
        # Every connection changes the condition.
        while self._budget.must_wait(self) and not self._abort_if_gone():  # noqa: ASYNC110
            await asyncio.sleep(_BUDGET_POLL_S)
        if not self._is_reading:
            self._is_reading = True
            self._protocol.resume_reading()
        await self._arrived.wait()

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._protocol.pause_reading()
        self._is_slowed = True
        if self._slowed_check is None and not self._is_lost:
            self._slowed_check = self._loop.call_later(_SLOWED_CHECK_S, self._check_slowed)

    def _check_slowed(self) -> None:
        """Find out whether a side is gone whose bytes arrive faster than they are read.

        Its end follows the bytes that its system and this one hold, which may take minutes to read.
        But the system of a side that is gone answers a ping with a reset.
        """
        self._slowed_check = None
        if self._is_slowed and not self._abort_if_gone():
            self._is_slowed = not self._is_reading
            self.send(Opcode.PING, b"")
            self._slowed_check = self._loop.call_later(_SLOWED_CHECK_S, self._check_slowed)

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionLost("the connection was lost")
        self._transport.write(data)
        if self._unsent_check is None and self._unsent_bytes():
            self._unsent_check = self._loop.call_later(_UNSENT_CHECK_S, self._check_unsent)

    def _check_unsent(self) -> None:
        """End a connection whose side has ended and does not take what was written to it.

        asyncio closes the transport when it reads the end, and reports that when all is sent. What
        the side sent before its end has arrived by then, and can still be read.
        """
        self._unsent_check = None
        if self._is_lost or not self._unsent_bytes():
            return
        if self._transport.is_closing():
            self._transport.abort()
        else:
            self._unsent_check = self._loop.call_later(_UNSENT_CHECK_S, self._check_unsent)

    def _mask(self) -> bytes | None:
        return os.urandom(4) if self._is_pod else None

    def _account(self, unsent: int = 0) -> None:
        if not self._is_lost:
            self._budget.update(self, self._frames.buffered + len(self._early) + unsent)

    def _check_alive(self) -> None:
        """Ping an idle side; end the connection if it does not answer.

        A side from which the gateway does not read now cannot be heard; it counts as alive while
        its connection is open.
        """
        now = self._loop.time()
        if not self._is_reading and not self._abort_if_gone():
            self._heard_at = now
        idle_s = now - self._heard_at
        if idle_s >= 1.5 * HEARTBEAT_S:
            self._transport.abort()
            return
        if idle_s >= HEARTBEAT_S:
            self.send(Opcode.PING, b"")
            next_s = 1.5 * HEARTBEAT_S - idle_s
        else:
            next_s = HEARTBEAT_S - idle_s
        self._heartbeat = self._loop.call_later(next_s + 0.01, self._check_alive)

    def _abort_if_gone(self) -> bool:
        """End a connection that the side has ended; asyncio notices that only while it reads.

        A pod that has closed its end may have sent what the caller has not taken yet.
        """
        end = peer_end(self._transport) if self._is_connected else PeerEnd.NOTHING
        is_gone = end is PeerEnd.CONNECTION or (end is PeerEnd.SENDING and not self._is_pod)
        if is_gone:
            self._transport.abort()
        return is_gone or self._is_lost
