"""Decides which service is reconciled next: each once at a time, failures less and less often."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 30.0

_Key = TypeVar("_Key", bound=Hashable)


class Agenda(Generic[_Key]):
    """Keys with the times at which they are due.

    Time comes in as an argument. A key that is woken while it is in work is due
    again once it is finished, so nothing that was seen meanwhile is missed.
    """

    def __init__(self) -> None:
        self._due: dict[_Key, float] = {}
        self._heap: list[tuple[float, int, _Key]] = []
        self._pushed = 0  # breaks ties, since keys need no order
        self._in_work: set[_Key] = set()
        self._failures: dict[_Key, int] = {}

    def wake(self, key: _Key, at: float) -> None:
        """Let a key be due at a time, or sooner if it already is.

        A key that failed is not due before its delay has passed: what wakes it
        may well be an echo of the failure.
        """
        if key in self._due and (self._due[key] <= at or key in self._failures):
            return
        self._due[key] = at
        self._push(key)

    def take(self, now: float) -> _Key | None:
        """Start work on the key that is due longest, or return None if none is."""
        at = self.next_at()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        self._in_work.add(key)
        return key

    def next_at(self) -> float | None:
        """Return when a key that is not in work is due next, None if none ever is."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) == at and key not in self._in_work:
                return at
            heapq.heappop(self._heap)  # an older wish, or pushed again when its work ends
        return None

    def finish(self, key: _Key) -> None:
        """End work that succeeded."""
        self._failures.pop(key, None)
        self._end(key)

    def fail(self, key: _Key, now: float, jitter: float, at_least_s: float = 0.0) -> float:
        """End work that failed and return the delay until the next try.

        `jitter` from 0 to 1 spreads keys that failed together; `at_least_s` is
        what the API server asked for.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 16))
        delay_s = max(at_least_s, longest * (1 + jitter) / 2)
        # What woke it meanwhile waits too: it would fail the same way.
        self._due[key] = now + delay_s
        self._end(key)
        return delay_s

    def pardon(self, key: _Key) -> None:
        """Forget the failures of a key, since what made it fail has changed."""
        self._failures.pop(key, None)

    def forget(self, key: _Key) -> None:
        """Drop a key whose object is gone."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def _end(self, key: _Key) -> None:
        self._in_work.discard(key)
        if key in self._due:
            self._push(key)

    def _push(self, key: _Key) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (self._due[key], self._pushed, key))
