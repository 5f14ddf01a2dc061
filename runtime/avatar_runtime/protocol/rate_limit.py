"""Counts events in a sliding window of time."""

from __future__ import annotations

from collections import deque


class RateWindow:
    """At most `limit` events in any `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=limit)

    def admits(self, now: float) -> bool:
        """Count one event, or return that it is one too many, uncounted."""
        if len(self._times) == self.limit and now - self._times[0] < self._seconds:
            return False
        self._times.append(now)
        return True
