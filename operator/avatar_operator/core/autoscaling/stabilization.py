"""The stabilization window: the recommendations of the recent past.

The number of pods goes down only to the highest recommendation of the window, and only when the
window is covered completely. The HorizontalPodAutoscaler uses the same rule
(`behavior.scaleDown.stabilizationWindowSeconds`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUCKETS: Final = 60
"""The window is stored in this many parts, so a recommendation counts up to 1/60 too long."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A time interval in the past and the highest recommendation in it."""

    start: float
    """Seconds, monotonic."""
    end: float
    """Seconds, monotonic."""
    pods: int


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The recommended numbers of pods since a time, without gaps."""

    since: float
    """Start of the record in seconds, monotonic."""
    latest: int
    """The recommendation that still holds."""
    latest_at: float
    """When `latest` was made, in seconds, monotonic."""
    intervals: tuple[Interval, ...] = ()
    """Earlier recommendations, oldest first."""

    @classmethod
    def starting(cls, now: float, pods: int) -> Recommendations:
        """Return a record that starts now and so proves nothing about the time before."""
        return cls(now, pods, now)

    def with_recommendation(self, now: float, pods: int, window_s: float) -> Recommendations:
        """Return the record with a new recommendation; the previous one held until now."""
        if pods == self.latest:
            return self
        kept = self.intervals_since(now - window_s)
        closed = Interval(self.latest_at, now, self.latest)
        if kept and now - kept[-1].start < window_s / BUCKETS:
            last = kept.pop()
            closed = Interval(last.start, now, max(last.pods, closed.pods))
        return Recommendations(self.since, pods, now, (*kept, closed))

    def maximum(self, now: float, window_s: float) -> int:
        """Return the highest recommendation of the last `window_s` seconds."""
        intervals = self.intervals_since(now - window_s)
        return max([self.latest, *(interval.pods for interval in intervals)])

    def covers(self, now: float, window_s: float) -> bool:
        """Return whether the record covers the complete window."""
        return now - self.since >= window_s

    def drops_after_s(self, now: float, window_s: float) -> float:
        """Return after how many seconds the maximum drops if `latest` holds; 0 if it is due."""
        intervals = self.intervals_since(now - window_s)
        highest = max((interval.pods for interval in intervals), default=0)
        ends = [each.end for each in intervals if each.pods == highest and highest > self.latest]
        return max(0.0, max([self.since, *ends]) + window_s - now)

    def intervals_since(self, at: float) -> list[Interval]:
        """Return the intervals that end after a time; `latest` is not among them."""
        return [interval for interval in self.intervals if interval.end > at]
