"""Estimates the arrival rate of callers, and how many may arrive while a pod starts."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import floor
from typing import Final

from avatar_operator.core.autoscaling.poisson import is_rare, quantile

BURST_S: Final = (24.0, 12.0, 6.0)  # windows for bursts; the last one as Knative's panic window
SLOW_S: Final = 60.0  # window for changes
LONG_S: Final = 300.0  # window that random variation hardly changes

CHANGE: Final = 0.01  # chance of a false change of the slow window, in each direction
FALSE_ALARM: Final = 0.003  # chance that a caller at a constant rate looks like a burst, a window
MIN_BURST: Final = 4  # callers
COVERED: Final = 0.95  # share of the starts in which the headroom lasts


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

        A shorter window is used only if chance rarely distributes the callers of the longer one so
        unevenly: for the slow window, in fewer than `CHANGE` of the cases in either direction; for
        a window for bursts, in fewer than `FALSE_ALARM`, and with at least `MIN_BURST` callers.
        """
        long_s = min(LONG_S, max(SLOW_S, now - self.counts[0][0]))
        long = self.within(LONG_S, now)
        slow = self.within(SLOW_S, now)
        window_s, count = long_s, long
        if long_s > SLOW_S and _differs(slow, long, SLOW_S / long_s):
            window_s, count = SLOW_S, slow
        for burst_s in BURST_S:
            burst = self.within(burst_s, now)
            # The long window as well: only the callers of a constant rate are judged exactly.
            if _is_burst(burst, long, burst_s / long_s) and _is_burst(
                burst, count, burst_s / window_s
            ):
                window_s, count = burst_s, burst
        return count / window_s


def headroom(mean: float, variance: float = 0.0) -> int:
    """Return how many slots to keep free for the callers that come while a pod starts.

    The pod starts when a caller takes one of these slots, so this caller counts as well. `mean` is
    the mean number of the others, and `variance` its variance if it is uncertain.
    """
    return 1 + quantile(COVERED, mean, variance) if mean > 0 else 0


def _is_burst(burst: int, count: int, fraction: float) -> bool:
    """Return whether chance does not explain a burst; the window ends with a given caller."""
    return burst >= MIN_BURST and is_rare(burst - 1, count - 1, fraction, FALSE_ALARM)


def _differs(slow: int, count: int, fraction: float) -> bool:
    """Return whether the slow window has more or fewer callers than chance explains."""
    more = slow > 0 and is_rare(slow - 1, count - 1, fraction, CHANGE)
    return more or is_rare(count - slow, count, 1 - fraction, CHANGE)
