"""Earliest deadline first over all sessions, in batches.

The scheduler is work-conserving: a waiting request is in the next batch that has room, since
delaying a batch gains nothing while the device is free. Three rules change the order by deadline:

- the first frame of a response is due before its arrival and in a small batch, so that a response
  starts at once;
- late frames are taken round-robin over the sessions, so that one session far behind does not
  delay the others;
- a batch is reduced to a full bucket if padding it to the next bucket would cost more than it
  gains.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_runtime.batching import buckets

if TYPE_CHECKING:
    from avatar_runtime.batching.frames import FrameRequest

QUEUE_FRAMES: Final = 4096  # 32 in flight for each of 128 sessions
FIRST_LEAD_S: Final = 0.25
"""How long before its arrival a first frame is due: only frames later than that go first."""
FIRST_BATCH: Final = 4
"""Frames in a batch with a first frame: nine tenths of the speed on published GPUs."""
TOO_LATE_S: Final = 1.0
"""Frames later than this are shed while more of them wait than one batch holds. A recovery from
out of memory is shorter, so it loses no frame."""
_MIN_FILL: Final = 7 / 8  # a batch costs a constant and its bucket: two batches cost less below it


@dataclass(frozen=True, slots=True)
class Queued:
    """A request in the queue."""

    request: FrameRequest
    since: float
    droppable: bool = True
    """Whether its session prefers losing the frame to receiving it late."""
    expires: float = inf
    """When its session drops the frame."""

    @property
    def due(self) -> float:
        """The deadline that orders the queue."""
        if self.request.frame_index == 0:
            return min(self.request.deadline, self.since - FIRST_LEAD_S)
        return self.request.deadline


@dataclass(frozen=True, slots=True)
class Statistics:
    """The number of waiting requests and the room for more."""

    waiting: int
    room: int


class Scheduler:
    """One bounded queue for all sessions, ordered by deadline, then by arrival."""

    def __init__(self, bound: int = QUEUE_FRAMES, *, pads: bool = False) -> None:
        """`pads`: a batch costs as much as its bucket."""
        self._bound = bound
        self._pads = pads
        # A heap of (due, number, entry) for each session; the numbers order equal deadlines.
        self._queues: dict[str, list[tuple[float, int, Queued]]] = {}
        self._waiting = 0
        self._offered = 0

    def offer(
        self, request: FrameRequest, now: float, *, droppable: bool = True, expires: float = inf
    ) -> bool:
        """Queue a request; return False if the queue is full, which the session must be told."""
        if self._waiting >= self._bound:
            return False
        self._offered += 1
        self._waiting += 1
        entry = Queued(request, now, droppable, expires)
        queue = self._queues.setdefault(request.session, [])
        heapq.heappush(queue, (entry.due, self._offered, entry))
        return True

    def take(self, limit: int, now: float) -> tuple[Queued, ...]:
        """Return the next batch, at most `limit` requests; empty only if no request waits."""
        size = self._size(min(limit, self._waiting))
        heads = [_order(queue, 0, now) for queue in self._queues.values()]
        heapq.heapify(heads)
        batch: list[Queued] = []
        while len(batch) < size and not _is_full_start(batch):
            round_, _, _, session = heads[0]
            batch.append(self._pop(session))
            if session in self._queues:
                heapq.heapreplace(heads, _order(self._queues[session], round_ + 1, now))
            else:
                heapq.heappop(heads)
        return tuple(batch)

    def shed(self, limit: int, now: float) -> tuple[FrameRequest, ...]:
        """Remove frames until one batch holds all that are too late, and return them.

        Each removed frame is the oldest late frame of the session that is most behind. The first
        frame of a response and the last waiting frame of a session are kept, so that the video
        of the session continues.
        """
        excess = sum(self._too_late(queue, now) for queue in self._queues.values()) - limit
        removed = []
        while excess > 0:
            behind = [
                (queue[0][:2], session)
                for session, queue in self._queues.items()
                if len(queue) > 1 and _is_too_late(queue[0][2], now)
            ]
            if not behind:
                break
            removed.append(self._pop(min(behind)[1]).request)
            excess -= 1
        return tuple(removed)

    def expire(self, now: float, service_s: float) -> tuple[FrameRequest, ...]:
        """Remove the frames that expire before a batch of `service_s` ends, and return them.

        The last waiting frame of a session stays until it has expired: otherwise a session would
        get no frame at all while a batch takes longer than its frames last.
        """
        removed = []
        for session in list(self._queues):
            while (queue := self._queues.get(session)) is not None:
                remaining_s = queue[0][2].expires - now
                if remaining_s > (service_s if len(queue) > 1 else 0.0):
                    break
                removed.append(self._pop(session).request)
        return tuple(removed)

    def cancel(self, session: str, epoch: int) -> int:
        """Remove the requests of a session before `epoch`; return how many."""
        queue = self._queues.pop(session, [])
        kept = [entry for entry in queue if entry[2].request.epoch >= epoch]
        if kept:
            heapq.heapify(kept)
            self._queues[session] = kept
        self._waiting -= len(queue) - len(kept)
        return len(queue) - len(kept)

    def statistics(self) -> Statistics:
        """Return the number of waiting requests and the room for more."""
        return Statistics(self._waiting, self._bound - self._waiting)

    def _size(self, frames: int) -> int:
        if not self._pads or frames == 0 or frames >= _MIN_FILL * buckets.around(frames):
            return frames
        return buckets.within(frames)

    def _pop(self, session: str) -> Queued:
        queue = self._queues[session]
        entry = heapq.heappop(queue)[2]
        if not queue:
            del self._queues[session]
        self._waiting -= 1
        return entry

    @staticmethod
    def _too_late(queue: list[tuple[float, int, Queued]], now: float) -> int:
        if not _is_too_late(queue[0][2], now):
            return 0  # the head is the oldest request, so the usual case reads one entry
        return sum(_is_too_late(entry, now) for _, _, entry in queue)


def _is_full_start(batch: list[Queued]) -> bool:
    """Whether a batch has a first frame and its maximum size."""
    return len(batch) == FIRST_BATCH and any(e.request.frame_index == 0 for e in batch)


def _is_too_late(entry: Queued, now: float) -> bool:
    is_late = now - entry.request.deadline > TOO_LATE_S
    return is_late and entry.droppable and entry.request.frame_index > 0


def _order(
    queue: list[tuple[float, int, Queued]], round_: int, now: float
) -> tuple[int, float, int, str]:
    """Return the sort key of the next frame of a session: late frames by round, then the others."""
    due, number, entry = queue[0]
    return round_ if due <= now else _NOT_LATE, due, number, entry.request.session


_NOT_LATE: Final = 1 << 30  # after every round of late frames
