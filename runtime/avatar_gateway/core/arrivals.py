"""The arrival rate of callers over the last seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10
"""Length of the averaging window: it smooths single arrivals and still follows a burst."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The number of arrivals in each second of the window."""

    seconds: tuple[tuple[int, int], ...] = ()
    """Pairs of a second and its arrivals, oldest first."""

    def with_one(self, now: float) -> Arrivals:
        """Return a copy with one more arrival at `now`."""
        second = int(now)
        kept = self._recent(second)
        if kept and kept[-1][0] == second:
            return Arrivals((*kept[:-1], (second, kept[-1][1] + 1)))
        return Arrivals((*kept, (second, 1)))

    def per_s(self, now: float) -> float:
        """Return the mean arrivals per second in the window that ends at `now`."""
        return sum(count for _, count in self._recent(int(now))) / WINDOW_S

    def _recent(self, second: int) -> tuple[tuple[int, int], ...]:
        return tuple(pair for pair in self.seconds if pair[0] > second - WINDOW_S)
