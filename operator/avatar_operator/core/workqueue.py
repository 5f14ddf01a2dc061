"""A work queue with delays: each key is processed by one worker at a time, failures back off."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from avatar_contracts.backoff import doubled, jittered

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 30.0

_Key = TypeVar("_Key", bound=Hashable)


class WorkQueue(Generic[_Key]):
    """Keys with the times at which they are due, after client-go's rate limiting work queue.

    The current time is an argument. A key that is added while it is processed is due again
    after `done` or `fail`, so a change that arrives during the processing is not missed.
    """

    def __init__(self) -> None:
        self._due: dict[_Key, float] = {}
        self._heap: list[tuple[float, int, _Key]] = []
        self._pushed = 0  # breaks ties, because keys have no order
        self._processing: set[_Key] = set()
        self._failures: dict[_Key, int] = {}

    def add_after(self, key: _Key, delay_s: float, now: float) -> None:
        """Make a key due after a delay, or keep the earlier time at which it is already due.

        A key that failed keeps its retry time: the change that adds the key is often
        caused by the failed attempt itself.
        """
        at = now + delay_s
        if key in self._due and (self._due[key] <= at or key in self._failures):
            return
        self._due[key] = at
        self._push(key)

    def get(self, now: float) -> _Key | None:
        """Start processing the key that was due first, or return None if no key is due."""
        at = self.next_at()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        self._processing.add(key)
        return key

    def next_at(self) -> float | None:
        """Return when the next key that is not being processed is due, None if there is none."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) == at and key not in self._processing:
                return at
            heapq.heappop(self._heap)  # outdated, or pushed again when its processing ends
        return None

    def done(self, key: _Key) -> None:
        """End the processing of a key that succeeded."""
        self._failures.pop(key, None)
        self._end(key)

    def fail(self, key: _Key, now: float, jitter: float, at_least_s: float = 0.0) -> float:
        """End the processing of a key that failed and return the delay until the retry.

        `jitter` from 0 to 1 spreads keys that failed at the same time; `at_least_s` is the
        delay that the API server asked for.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = doubled(FIRST_DELAY_S, LONGEST_DELAY_S, failures)
        delay_s = max(at_least_s, jittered(longest, jitter))
        # A change that arrived during the processing waits too: it would fail in the same way.
        self._due[key] = now + delay_s
        self._end(key)
        return delay_s

    def forget(self, key: _Key) -> None:
        """Forget the failures of a key, because the cause of the failures has changed."""
        self._failures.pop(key, None)

    def remove(self, key: _Key) -> None:
        """Remove a key whose object was deleted."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def _end(self, key: _Key) -> None:
        self._processing.discard(key)
        if key in self._due:
            self._push(key)

    def _push(self, key: _Key) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (self._due[key], self._pushed, key))
