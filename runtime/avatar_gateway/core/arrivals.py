"""How many callers come: a rate over the last seconds, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10
"""Long enough to smooth single callers, short enough to follow a burst."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Callers by second; whole seconds older than the window are forgotten."""

    seconds: tuple[tuple[int, int], ...] = ()
    """Pairs of second and callers, oldest first."""

    def with_one(self, now: float) -> Arrivals:
        """Return the record with one more caller at `now`."""
        second = int(now)
        kept = self._recent(second)
        if kept and kept[-1][0] == second:
            return Arrivals((*kept[:-1], (second, kept[-1][1] + 1)))
        return Arrivals((*kept, (second, 1)))

    def per_s(self, now: float) -> float:
        """Return the callers a second over the window that ends at `now`."""
        return sum(count for _, count in self._recent(int(now))) / WINDOW_S

    def _recent(self, second: int) -> tuple[tuple[int, int], ...]:
        return tuple(pair for pair in self.seconds if pair[0] > second - WINDOW_S)
