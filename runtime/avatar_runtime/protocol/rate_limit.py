"""Limits the rate of events: over a sliding window of time, or by a bucket that refills."""

from __future__ import annotations

from collections import deque


class RateLimiter:
    """Admits at most `limit` events in any `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=limit)

    def admits(self, now: float) -> bool:
        """Count an event and return true, or return false if it is over the limit."""
        if len(self._times) == self.limit and now - self._times[0] < self._seconds:
            return False
        self._times.append(now)
        return True


class TokenBucket:
    """Admits `burst` events at once, and one more every `interval_s` seconds.

    Who has used up a sliding window may have to wait as long as the window; here the next event is
    at most `interval_s` away.
    """

    def __init__(self, burst: int, interval_s: float) -> None:
        self._capacity_s = burst * interval_s
        self._interval_s = interval_s
        self._full_at = float("-inf")

    def admits(self, now: float) -> bool:
        """Count an event and return true, or return false if it is over the limit."""
        if self.wait_s(now) > 0:
            return False
        self._full_at = max(self._full_at, now) + self._interval_s
        return True

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next event is admitted, 0 if one is admitted now."""
        # The tolerance absorbs the rounding of a sum of intervals.
        wait_s = max(self._full_at, now) + self._interval_s - now - self._capacity_s
        return wait_s if wait_s > 1e-9 else 0.0
