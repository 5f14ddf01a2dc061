"""Estimates at which rate callers come, and how many may come while a pod starts."""

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Final

FAST_S: Final = 6.0  # the window that follows a burst, as Knative's panic window does
SLOW_S: Final = 60.0  # the window that single callers do not move


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How many callers had come by each of the last seconds."""

    counts: tuple[tuple[int, int], ...]  # (second, count by its end), oldest first, not empty

    @classmethod
    def begun(cls, now: float, count: int) -> "Arrivals":
        """Return a record that begins: who came before `now` is not known."""
        return cls(((floor(now) - 1, count),))

    def with_count(self, now: float, count: int) -> "Arrivals":
        """Return the record with the count as it is now; one that fell is a new beginning."""
        second, last = self.counts[-1]
        if count < last or now < second:
            return Arrivals.begun(now, count)
        if count == last:
            return self
        kept = self.counts[:-1] if second == floor(now) else self.counts
        oldest = max(0, bisect_right(kept, (floor(now - SLOW_S), count)) - 1)
        return Arrivals((*kept[oldest:], (floor(now), count)))

    def within(self, window_s: float, now: float) -> int:
        """Return how many came in the last `window_s` seconds, by whole seconds."""
        latest = self.counts[-1][1]
        before = bisect_right(self.counts, (floor(now - window_s), latest)) - 1
        return latest - self.counts[max(0, before)][1]

    def per_s(self, now: float) -> float:
        """Return the rate over the slow window, or over the fast one if it is a burst.

        Two callers within 6 s are no burst: the fast window counts only if chance
        alone would bring so many in fewer than one of a hundred windows.
        """
        slow = self.within(SLOW_S, now) / SLOW_S
        fast = self.within(FAST_S, now)
        return max(slow, fast / FAST_S) if fast > at_most(slow * FAST_S) else slow


def at_most(mean: float) -> int:
    """Return how many come in 99 of 100 cases when `mean` are expected.

    The normal approximation of the Poisson quantile; for means from 0.5 to 100
    it equals the exact one (tested).
    """
    return ceil(mean + 2.33 * sqrt(mean))
