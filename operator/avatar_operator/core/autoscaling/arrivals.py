"""Estimates at which rate callers come, and how many may come while a pod starts."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Final

FAST_S: Final = 6.0  # the window that follows a burst, as Knative's panic window does
SLOW_S: Final = 60.0  # the window that follows a change
LONG_S: Final = 300.0  # the window that chance hardly moves

Z99: Final = 2.33  # standard deviations that 99 of 100 cases stay below


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How many callers had come by each of the last seconds."""

    counts: tuple[tuple[int, int], ...]  # (second, count by its end), oldest first, not empty

    @classmethod
    def starting(cls, now: float, count: int) -> Arrivals:
        """Return a record that begins: who came before `now` is not known."""
        return cls(((floor(now) - 1, count),))

    def with_count(self, now: float, count: int) -> Arrivals:
        """Return the record with the count as it is now; one that fell is a new beginning."""
        second, last = self.counts[-1]
        if count < last or now < second:
            return Arrivals.starting(now, count)
        if count == last:
            return self
        kept = self.counts[:-1] if second == floor(now) else self.counts
        oldest = max(0, bisect_right(kept, (floor(now - LONG_S), count)) - 1)
        return Arrivals((*kept[oldest:], (floor(now), count)))

    def within(self, window_s: float, now: float) -> int:
        """Return how many came in the last `window_s` seconds, by whole seconds."""
        latest = self.counts[-1][1]
        before = bisect_right(self.counts, (floor(now - window_s), latest)) - 1
        return latest - self.counts[max(0, before)][1]

    def per_s(self, now: float) -> float:
        """Return the rate over the longest window that shorter ones do not contradict.

        Two callers within 6 s are no burst: a shorter window counts only if chance
        alone would bring so many (or for the slow one, so few) in fewer than one of
        a hundred such windows.
        """
        known_s = min(LONG_S, max(SLOW_S, now - self.counts[0][0]))
        rate = self.within(LONG_S, now) / known_s
        slow = self.within(SLOW_S, now)
        if not at_least(rate * SLOW_S) <= slow <= at_most(rate * SLOW_S):
            rate = slow / SLOW_S
        fast = self.within(FAST_S, now)
        return max(rate, fast / FAST_S) if fast > at_most(rate * FAST_S) else rate


def at_most(mean: float, variance: float = 0.0) -> int:
    """Return how many come in 99 of 100 cases when `mean` are expected.

    The normal approximation of the Poisson quantile; for means from 0.5 to 100
    it equals the exact one (tested). `variance` is that of the mean itself,
    where it is not certain.
    """
    return ceil(mean + Z99 * sqrt(mean + variance))


def at_least(mean: float) -> int:
    """Return below how many come in one of 100 cases only, 0 or more."""
    return max(0, floor(mean - Z99 * sqrt(mean)))
