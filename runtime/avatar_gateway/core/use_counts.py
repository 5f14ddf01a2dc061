"""Counts the uses of client secrets in the memory of one gateway."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_IDS: Final = 100_000
"""Client secrets that are counted at once; a gateway that mints more forgets the oldest counts."""


class LocalUseCounts:
    """Counts uses; what has expired is forgotten."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By id, the number of uses and when it is forgotten."""

    async def count_use(self, use_id: str, limit: int, ttl_s: int) -> bool:
        """Count one use, and return whether it is within the limit; forget it after `ttl_s`."""
        now = self._clock()
        count, until = self._counts.get(use_id, (0, now + ttl_s))
        if count and until <= now:
            count, until = 0, now + ttl_s
        if count >= limit:
            return False
        self._counts[use_id] = count + 1, until
        while len(self._counts) > _MAX_IDS or next(iter(self._counts.values()))[1] <= now:
            self._counts.popitem(last=False)
        return True
