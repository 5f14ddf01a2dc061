"""Remembers how many pods were wanted lately, to prove that a surplus lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUCKETS: Final = 60
"""The window is kept in so many parts: a wish counts for up to a 60th longer than it should."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest wish of a span of time that is over."""

    begun: float
    ended: float
    pods: int


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was wanted since a time, without gaps."""

    since: float
    latest: int
    latest_at: float
    peaks: tuple[Peak, ...] = ()  # oldest first

    @classmethod
    def begun(cls, now: float, pods: int) -> Wishes:
        """Return a record that begins: it proves nothing of the time before."""
        return cls(now, pods, now)

    def with_wish(self, now: float, pods: int, window_s: float) -> Wishes:
        """Return the record with a new wish; the last one held until now."""
        if pods == self.latest:
            return self
        kept = self.peaks_since(now - window_s)
        ending = Peak(self.latest_at, now, self.latest)
        if kept and now - kept[-1].begun < window_s / BUCKETS:
            last = kept.pop()
            ending = Peak(last.begun, now, max(last.pods, ending.pods))
        return Wishes(self.since, pods, now, (*kept, ending))

    def peak(self, now: float, window_s: float) -> int:
        """Return the most that was wanted in the last `window_s` seconds."""
        peaks = self.peaks_since(now - window_s)
        return max([self.latest, *(peak.pods for peak in peaks)])

    def proves(self, now: float, window_s: float) -> bool:
        """Return whether the record covers the whole window."""
        return now - self.since >= window_s

    def falls_after_s(self, now: float, window_s: float) -> float:
        """Return how long until the peak falls if nothing more is wanted, 0 if it is due."""
        spans = self.peaks_since(now - window_s)
        highest = max((peak.pods for peak in spans), default=0)
        ends = [peak.ended for peak in spans if peak.pods == highest and highest > self.latest]
        return max(0.0, max([self.since, *ends]) + window_s - now)

    def peaks_since(self, at: float) -> list[Peak]:
        """Return what was wanted after a time, the latest wish aside."""
        return [peak for peak in self.peaks if peak.ended > at]
