"""Limits the rate of events over a sliding window of time."""

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
