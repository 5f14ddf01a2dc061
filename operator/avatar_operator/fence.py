"""Lets writes through while this process leads, and none before or after.

The API has no fencing tokens, so a leader fences itself: every write, to the API
server or to a runtime pod, goes through `passage`, which says how long it may
take at most. A process that was stopped for a while finds its time over when it
goes on, without having heard of anything.
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
    """Return seconds of a clock that goes on while the machine sleeps, unlike the loop's."""
    return time.clock_gettime(_CLOCK)


class Fence:
    """Owned by the leadership, which opens it; asked by whoever writes."""

    def __init__(self) -> None:
        self._valid_until = -inf
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.epoch = 0
        """`leaseTransitions` of the Lease under which writes pass."""

    def open_until(self, valid_until: float, epoch: int) -> None:
        """Let writes through until then."""
        self._valid_until = valid_until
        self.epoch = epoch

    def close(self) -> None:
        """Let no write through from now on."""
        self._valid_until = -inf

    def is_open(self) -> bool:
        """Return whether a write would pass now."""
        return clock() < self._valid_until

    @contextmanager
    def passage(self) -> Iterator[float]:
        """Let one write through; yields the seconds within which it must have ended.

        Raises:
            NotLeading: it must not be sent.
        """
        left_s = self._valid_until - clock()
        if left_s <= 0:
            raise NotLeading
        self._inside += 1
        self._empty.clear()
        try:
            yield left_s
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def emptied(self) -> None:
        """Wait until no write is under way."""
        await self._empty.wait()
