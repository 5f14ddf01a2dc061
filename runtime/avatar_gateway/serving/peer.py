"""One side of a session: the WebSocket on an HTTP connection that was upgraded.

aiohttp makes and accepts the connections; from the upgrade on, it hands the bytes to a `Peer`.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from aiohttp.http import StreamWriter

from avatar_contracts import socket_buffers
from avatar_gateway.core import frames
from avatar_gateway.core.frames import Opcode
from avatar_gateway.serving.liveness import Liveness

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.base_protocol import BaseProtocol

    from avatar_gateway.core.memory_budget import MemoryBudget

    PassOn = Callable[[bytes, int, float], bool]
    """Takes frames, their number and the time; returns whether it has taken them."""

MAX_MESSAGE_BYTES: Final = 21 * 2**20
"""Largest message of the protocol."""
TURN_FRAMES: Final = 100
"""Frames of one connection that are handled before other connections get their turn."""
_PAUSE_BYTES: Final = 64 * 1024
"""Unread bytes at which the connection stops reading from the network."""
_BUDGET_POLL_S: Final = 0.05
_CLOSE_TIMEOUT_S: Final = 5.0
"""How long a side may take to answer a close frame."""
_LINGER_BYTES: Final = 256 * 1024
"""What a side may still send after the gateway sent a close frame; it is dropped."""


class ConnectionLost(ConnectionError):
    """The connection ended without a close frame."""


class EarlyInputTooLarge(Exception):
    """A caller sent more than the limit before its session started."""


class Peer(asyncio.Protocol):
    """Reads segments of frames from a side, and writes frames to it."""

    def __init__(
        self,
        protocol: BaseProtocol,
        budget: MemoryBudget,
        *,
        is_pod: bool,
        subprotocol: str | None = None,
        session_id: str | None = None,
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
        self._loop = asyncio.get_running_loop()
        self.is_full = False
        """Whether the side has to take data before more is passed on."""
        self._frames = frames.FrameReader(masked=not is_pod, max_message_bytes=MAX_MESSAGE_BYTES)
        self._early = bytearray()
        self._early_frames = 0
        self._early_limit: int | None = None
        self._is_reading = True
        self._is_lost = False
        self._is_mid_frame = False
        self._has_closed = False
        self._has_ended = False
        self._pending = b""
        self._pass_on: PassOn | None = None
        """What takes whole frames as they arrive; only while `read` waits for them."""
        self._refused: frames.Segment | None = None
        """The segment that `_pass_on` has left for `read`."""
        self._arrived = asyncio.Event()
        self._liveness = Liveness(protocol, lambda: self.send(Opcode.PING, b""), is_pod=is_pod)
        budget.update(self, 0)
        # A caller that reads slowly must slow down its pod: only that can still discard frames.
        (socket_buffers.limit_unread if is_pod else socket_buffers.limit_unsent)(self._transport)

    @property
    def is_lost(self) -> bool:
        """Return whether the connection has ended; what arrived before can still be read."""
        return self._is_lost

    @property
    def heard_at(self) -> float:
        """Return when something arrived last, seconds of the event loop."""
        return self._liveness.heard_at

    def abort(self) -> None:
        """End the connection as one that was lost."""
        self._transport.abort()

    def take_over(self) -> None:
        """Take the place of aiohttp's protocol, which still learns everything but the data.

        From here on, one read may take 256 KB instead of what aiohttp's protocol permits.
        """
        self.is_full = self._protocol.writing_paused
        self._transport.set_protocol(self)

    # aiohttp calls these two methods; it takes the object for a WebSocket parser.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what arrived before the connection was taken over."""
        self.data_received(data)
        return False, b""

    # The transport calls these.

    def data_received(self, data: bytes) -> None:
        """Take what arrived from the network."""
        self._liveness.heard_at = now = self._loop.time()
        pass_on = self._pass_on
        if pass_on is not None and len(data) < _PAUSE_BYTES:
            count = self._frames.count_whole(data, TURN_FRAMES)
            if count and pass_on(data, count, now):
                return
        self._frames.feed(data)
        if pass_on is not None and self._read_at_once(pass_on):
            self._account()
            return
        self._pass_on = None  # what follows stays behind what `read` returns now
        if self._frames.buffered >= _PAUSE_BYTES or self._budget.must_wait(self):
            self._pause()
        self._account()
        self._arrived.set()

    def eof_received(self) -> bool | None:
        """Take note of the end of what the side sends."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Take note that the transport is full."""
        self.is_full = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Take note that the transport is not full any more."""
        self.is_full = False
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end of the connection; aiohttp calls `feed_eof`."""
        self._protocol.connection_lost(exc)

    def feed_eof(self) -> None:
        """Take note that the connection ended."""
        self._is_lost = True
        self._liveness.connection_ended()
        self._budget.remove(self)
        self._arrived.set()

    def wake(self) -> None:
        """Let a `read` that waits return an empty segment."""
        if self._pass_on is not None:
            self._pass_on = None
            self._refused = frames.Segment(b"", is_mid_frame=False, frames=0)
            self._arrived.set()

    def _read_at_once(self, pass_on: PassOn) -> bool:
        """Read and pass on what arrived; return whether nothing is left for `read` to do."""
        if self._frames.buffered >= _PAUSE_BYTES or self._budget.must_wait(self):
            return False
        segment = None if self._frames.is_incomplete else self._next_segment()
        if segment is None:
            return True
        is_plain = segment.close is None and not (segment.has_more or segment.is_mid_frame)
        if is_plain and pass_on(segment.forward, segment.frames, self._liveness.heard_at):
            return True
        self._refused = segment
        return False

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

    async def read(self, pass_on: PassOn | None = None) -> frames.Segment:
        """Return the next segment that is not empty, and answer its pings.

        While it waits, `pass_on` gets whole frames as they arrive. What it does not take is the
        next segment.

        Raises:
            ConnectionLost: the connection ended without a close frame.
            EarlyInputTooLarge: the limit of `hold` is exceeded.
        """
        while True:
            self._arrived.clear()
            if self._refused is not None:
                segment, self._refused = self._refused, None
                return segment
            limit = self._early_limit
            if limit is not None and self._frames.buffered + len(self._early) > limit:
                raise EarlyInputTooLarge
            found = self._next_segment()
            if found is not None:
                self._account()
                return found
            if self._is_lost:
                raise ConnectionLost("the connection was lost")
            await self._wait_for_data(pass_on)

    def _next_segment(self) -> frames.Segment | None:
        segment = self._frames.read(TURN_FRAMES)
        if segment.pings:
            self.send(Opcode.PONG, segment.pings[-1])
        if segment.close is not None:
            self._has_closed = not segment.close.is_violation
        is_empty = not (segment.forward or segment.frames or segment.close is not None)
        return None if is_empty else segment

    def forward(self, data: bytes, *, is_mid_frame: bool = False) -> None:
        """Write data frames from the other side; `is_mid_frame` if the rest of the last follows.

        Raises:
            ConnectionLost: the connection ended.
        """
        if not data:
            return
        self.forwarded_bytes += len(data)
        self._write(data)
        if not (is_mid_frame or self._is_mid_frame):
            return
        self._is_mid_frame = is_mid_frame
        if self._pending and not is_mid_frame:
            pending, self._pending = self._pending, b""
            self._write(pending)

    async def drain(self) -> None:
        """Wait until the side has taken enough of what was written."""
        if self._protocol.writing_paused:
            self._account(self._liveness.unsent_bytes)
            await StreamWriter(self._protocol, self._loop).drain()
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
        if not self.close_at_once(code, reason):
            await self.wait_closed()

    def close_at_once(self, code: int, reason: str = "") -> bool:
        """Send a close frame, and close the connection if its side has sent one or is gone.

        Returns:
            Whether the connection is closed; if not, `wait_closed` has to be called.
        """
        is_over = self._is_mid_frame or self._transport.is_closing()
        if not is_over:
            try:
                self._write(frames.encode_close(code, reason, self._mask()))
            except ConnectionLost:
                is_over = True
        if is_over or self._has_closed:
            self._end()
            return True
        return False

    async def wait_closed(self) -> None:
        """Wait a short time for the answer to a close frame, and close the connection."""
        try:
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
        if self._liveness.unsent_bytes:
            self._loop.call_later(_CLOSE_TIMEOUT_S, self._abort_unsent)
        self._transport.close()
        self._frames.clear()
        self.feed_eof()

    def _abort_unsent(self) -> None:
        if self._liveness.is_connected:
            self._transport.abort()

    async def _wait_for_data(self, pass_on: PassOn | None) -> None:
        # Every connection changes the condition.
        while self._budget.must_wait(self) and not self._liveness.abort_if_gone():  # noqa: ASYNC110
            await asyncio.sleep(_BUDGET_POLL_S)
        if not self._is_reading:
            self._is_reading = True
            self._liveness.reading_resumed()
            self._protocol.resume_reading()
        self._pass_on = None if self._arrived.is_set() else pass_on
        try:
            await self._arrived.wait()
        finally:
            self._pass_on = None

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._protocol.pause_reading()
        self._liveness.reading_paused()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            raise ConnectionLost("the connection was lost")
        transport.write(data)
        if self._liveness.unsent_check is None:
            self._liveness.written()

    def _mask(self) -> bytes | None:
        return os.urandom(4) if self._is_pod else None

    def _account(self, unsent: int = 0) -> None:
        if not self._is_lost:
            self._budget.update(self, self._frames.buffered + len(self._early) + unsent)
