"""Finds out that the side of a session is gone, and ends its connection.

asyncio notices the end of a connection only while it reads it and has sent what was written to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from avatar_contracts import socket_buffers
from avatar_contracts.tcp import PeerEnd, peer_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.base_protocol import BaseProtocol

HEARTBEAT_S: Final = 40.0
"""Idle time before a ping; anything must arrive within half of that.

A pod closes a connection that accepts no data for 30 s. The gateway waits longer, so that a slow
client receives the pod's close reason.
"""
_SLOWED_CHECK_S: Final = 1.0
"""How often a side that is slowed down is asked whether it is still there."""
_UNSENT_CHECK_S: Final = 1.0
"""How often a side that does not take its data is checked for the end of what it sends."""


class Liveness:
    """The checks of one connection."""

    def __init__(self, protocol: BaseProtocol, ping: Callable[[], None], *, is_pod: bool) -> None:
        """`ping` sends a ping, if the side takes data."""
        assert protocol.transport is not None
        self._protocol = protocol
        self._transport = protocol.transport
        self._ping = ping
        self._is_pod = is_pod
        self._loop = asyncio.get_running_loop()
        self._is_reading = True
        self._is_slowed = False
        self._is_lost = False
        self._slowed_check: asyncio.TimerHandle | None = None
        self.unsent_check: asyncio.TimerHandle | None = None
        """The next check after something was written; None if `written` has to start it."""
        self.heard_at = self._loop.time()
        """When something arrived last; the owner sets it."""
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._check_alive)

    def reading_paused(self) -> None:
        """Take note that the side sends faster than it is read."""
        self._is_reading = False
        self._is_slowed = True
        if self._slowed_check is None and not self._is_lost:
            self._slowed_check = self._loop.call_later(_SLOWED_CHECK_S, self._check_slowed)

    def reading_resumed(self) -> None:
        """Take note that the side is read again."""
        self._is_reading = True

    def written(self) -> None:
        """Take note that something was written to the open connection."""
        if self.unsent_check is None:
            self.unsent_check = self._loop.call_later(_UNSENT_CHECK_S, self._check_unsent)

    def connection_ended(self) -> None:
        """Check nothing any more."""
        self._is_lost = True
        for check in (self._heartbeat, self._slowed_check, self.unsent_check):
            if check is not None:
                check.cancel()

    @property
    def is_connected(self) -> bool:
        """Whether the transport can still be asked; asyncio raises when it has ended."""
        return self._protocol.transport is not None

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were written and not sent."""
        return socket_buffers.unsent_bytes(self._transport) if self.is_connected else 0

    def abort_if_gone(self) -> bool:
        """End a connection that the side has ended; return whether it has ended.

        A pod that has closed its end may have sent what the caller has not taken yet.
        """
        end = peer_end(self._transport) if self.is_connected else PeerEnd.NOTHING
        is_gone = end is PeerEnd.CONNECTION or (end is PeerEnd.SENDING and not self._is_pod)
        if is_gone:
            self._transport.abort()
        return is_gone or self._is_lost

    def _check_slowed(self) -> None:
        """Find out whether a side is gone whose bytes arrive faster than they are read.

        Its end follows the bytes that its system and this one hold, which may take minutes to read.
        But the system of a side that is gone answers a ping with a reset.
        """
        self._slowed_check = None
        if self._is_slowed and not self.abort_if_gone():
            self._is_slowed = not self._is_reading
            self._ping()
            self._slowed_check = self._loop.call_later(_SLOWED_CHECK_S, self._check_slowed)

    def _check_unsent(self) -> None:
        """End a connection whose side has ended and does not take what was written to it.

        asyncio closes the transport when it reads the end, and reports that when all is sent. What
        the side sent before its end has arrived by then, and can still be read.
        """
        self.unsent_check = None
        if self._is_lost or not self.unsent_bytes:
            return
        if self._transport.is_closing():
            self._transport.abort()
        else:
            self.unsent_check = self._loop.call_later(_UNSENT_CHECK_S, self._check_unsent)

    def _check_alive(self) -> None:
        """Ping an idle side; end the connection if it does not answer.

        A side from which the gateway does not read now cannot be heard; it counts as alive while
        its connection is open.
        """
        now = self._loop.time()
        if not self._is_reading and not self.abort_if_gone():
            self.heard_at = now
        idle_s = now - self.heard_at
        if idle_s >= 1.5 * HEARTBEAT_S:
            self._transport.abort()
            return
        if idle_s >= HEARTBEAT_S:
            self._ping()
            next_s = 1.5 * HEARTBEAT_S - idle_s
        else:
            next_s = HEARTBEAT_S - idle_s
        self._heartbeat = self._loop.call_later(next_s + 0.01, self._check_alive)
