"""Which frames ride in the next batch: the earliest deadlines over all sessions."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avatar_runtime.batching.frames import FrameRequest

QUEUE_FRAMES: Final = 4096  # 32 in flight for each of 128 sessions


@dataclass(frozen=True, slots=True)
class Queued:
    """A request and since when it waits."""

    request: FrameRequest
    since: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """How full the queue is."""

    waiting: int
    room: int


class Scheduler:
    """One bounded queue for all sessions, taken from by deadline.

    Deadlines make it fair: a session that is far ahead of its playout has late ones, and
    one that is about to run dry has early ones. Equal deadlines leave in the order they came.
    """

    def __init__(self, bound: int = QUEUE_FRAMES) -> None:
        self._bound = bound
        self._queue: list[tuple[float, int, Queued]] = []
        self._offered = 0

    def offer(self, request: FrameRequest, now: float) -> bool:
        """Queue a request, or return that there is no room: its session has to be told."""
        if len(self._queue) >= self._bound:
            return False
        self._offered += 1
        heapq.heappush(self._queue, (request.deadline, self._offered, Queued(request, now)))
        return True

    def take(self, limit: int) -> tuple[Queued, ...]:
        """Return at most `limit` requests, the earliest deadlines first."""
        count = min(limit, len(self._queue))
        return tuple(heapq.heappop(self._queue)[2] for _ in range(count))

    def cancel(self, session: str, epoch: int) -> int:
        """Throw away the requests of a session that are older than `epoch`; return how many."""
        kept = [entry for entry in self._queue if not _is_older(entry[2].request, session, epoch)]
        thrown = len(self._queue) - len(kept)
        if thrown:
            heapq.heapify(kept)
            self._queue = kept
        return thrown

    def statistics(self) -> Statistics:
        """Return how full the queue is."""
        return Statistics(len(self._queue), self._bound - len(self._queue))


def _is_older(request: FrameRequest, session: str, epoch: int) -> bool:
    return request.session == session and request.epoch < epoch
