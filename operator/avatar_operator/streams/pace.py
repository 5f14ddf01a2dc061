"""Reads a state stream no faster than its contract allows, whatever the pod sends.

The author of a service chooses the image of its pods. A pod that sends as fast as it can would
otherwise keep the event loop busy with which the operator serves all namespaces.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avatar_contracts.rate_limit import RateLimit
from avatar_contracts.state import LONGEST_PAUSE_S

if TYPE_CHECKING:
    from avatar_contracts.rate_limit import Rate


class Pace:
    """The rate of one pod; it stays when the pod is connected again."""

    __slots__ = ("_limit", "is_exceeded")

    def __init__(self, rate: Rate) -> None:
        self._limit = RateLimit(rate)
        self.is_exceeded = False
        """Whether the pod was ever too fast."""

    def count(self, transport: asyncio.Transport, lines: int, size: int) -> bool:
        """Count what was read; stop reading for a while if it was too much.

        Returns:
            Whether the pod was too fast for the first time.
        """
        loop = asyncio.get_running_loop()
        pause_s = min(LONGEST_PAUSE_S, self._limit.delay(loop.time(), lines, size))
        if pause_s <= 0:
            return False
        transport.pause_reading()
        loop.call_later(pause_s, transport.resume_reading)  # does nothing on one that was closed
        is_first, self.is_exceeded = not self.is_exceeded, True
        return is_first
