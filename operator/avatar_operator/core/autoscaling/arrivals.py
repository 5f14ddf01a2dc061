"""Estimates the arrival rate of callers, and how many may arrive while a pod starts."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Final

FAST_S: Final = 6.0  # window for bursts, as Knative's panic window
SLOW_S: Final = 60.0  # window for changes
LONG_S: Final = 300.0  # window that random variation hardly changes

Z99: Final = 2.33  # 99th percentile of the standard normal distribution


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The total number of callers at the end of each of the last seconds."""

    counts: tuple[tuple[int, int], ...]
    """(second, total at its end), oldest first, never empty."""

    @classmethod
    def starting(cls, now: float, count: int) -> Arrivals:
        """Return a record that starts now; earlier callers are unknown."""
        return cls(((floor(now) - 1, count),))

    def with_count(self, now: float, count: int) -> Arrivals:
        """Return the record with the current total; a lower total starts a new record."""
        second, last = self.counts[-1]
        if count < last or now < second:
            return Arrivals.starting(now, count)
        if count == last:
            return self
        kept = self.counts[:-1] if second == floor(now) else self.counts
        oldest = max(0, bisect_right(kept, (floor(now - LONG_S), count)) - 1)
        return Arrivals((*kept[oldest:], (floor(now), count)))

    def within(self, window_s: float, now: float) -> int:
        """Return the number of callers in the last `window_s` seconds, in whole seconds."""
        latest = self.counts[-1][1]
        before = bisect_right(self.counts, (floor(now - window_s), latest)) - 1
        return latest - self.counts[max(0, before)][1]

    def per_s(self, now: float) -> float:
        """Return the rate in callers per second, over the longest window that fits the shorter.

        A shorter window is used only if its count is outside the 1st to 99th percentile of a
        Poisson distribution with the rate of the longer one (for the fast window: above it). Two
        callers within 6 s are therefore not a burst.
        """
        known_s = min(LONG_S, max(SLOW_S, now - self.counts[0][0]))
        rate = self.within(LONG_S, now) / known_s
        slow = self.within(SLOW_S, now)
        if not at_least(rate * SLOW_S) <= slow <= at_most(rate * SLOW_S):
            rate = slow / SLOW_S
        fast = self.within(FAST_S, now)
        return max(rate, fast / FAST_S) if fast > at_most(rate * FAST_S) else rate


def at_most(mean: float, variance: float = 0.0) -> int:
    """Return the 99th percentile of a Poisson count with this mean.

    The normal approximation is at most 1 above the exact quantile for means from 0.5 to 100
    (tested). `variance` is the variance of the mean itself, if the mean is uncertain.
    """
    return ceil(mean + Z99 * sqrt(mean + variance))


def at_least(mean: float) -> int:
    """Return the 1st percentile of a Poisson count with this mean, at least 0."""
    return max(0, floor(mean - Z99 * sqrt(mean)))
