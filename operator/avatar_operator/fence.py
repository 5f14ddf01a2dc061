"""Lets writes through while this process leads, and blocks them before and after.

The Kubernetes API has no fencing tokens, so a leader fences itself: every write, to the
API server or to a runtime pod, runs inside `guard`, which yields the longest time that the
write may take. A process that was suspended finds its term expired when it resumes, even
if no message about the Lease has reached it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.errors import NotLeading

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds of a clock that continues while the machine sleeps, unlike the loop's."""
    return time.clock_gettime(_CLOCK)


class Fence:
    """Opened and closed by the leader elector; every writer passes through it."""

    def __init__(self) -> None:
        self._valid_until = -inf
        self._ended_at = inf  # when writes were allowed last; inf before the first term
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.epoch = 0
        """`leaseTransitions` of the Lease under which writes are allowed."""

        self.gap_s = 0.0
        """For how long no write was allowed before the current term; 0 in the first term."""

    def open_until(self, valid_until: float, epoch: int) -> None:
        """Allow writes until a time of `clock`."""
        if not self.is_open():
            self.gap_s = max(0.0, clock() - self._ended_at)
        self._valid_until = self._ended_at = valid_until
        self.epoch = epoch

    def close(self) -> None:
        """Block all writes from now on."""
        if self.is_open():
            self._ended_at = clock()
        self._valid_until = -inf

    def is_open(self) -> bool:
        """Return whether a write is allowed now."""
        return clock() < self._valid_until

    @contextmanager
    def guard(self) -> Iterator[float]:
        """Run one write inside the block; yields the seconds within which it must end.

        Raises:
            NotLeading: the write must not be sent.
        """
        left_s = self._valid_until - clock()
        if left_s <= 0:
            raise NotLeading
        self._in_flight += 1
        self._idle.clear()
        try:
            yield left_s
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no write is in flight."""
        await self._idle.wait()
