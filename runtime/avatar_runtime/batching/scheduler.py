"""Which frames ride in the next batch: the earliest deadlines over all sessions.

Work-conserving: whatever waits leaves with the next batch that has room, since a batch that
waits for company gains nothing while the device is free. Three rules bend the plain order:

- a first frame counts as due before it came, and leaves in a small batch: a speaker starts at once;
- late frames leave in rounds, one a session, so that nobody pays for one that is far behind;
- a batch is cut to a full bucket where filling up the next one would waste more than it saves.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.batching import buckets

if TYPE_CHECKING:
    from avatar_runtime.batching.frames import FrameRequest

QUEUE_FRAMES: Final = 4096  # 32 in flight for each of 128 sessions
FIRST_LEAD_S: Final = 0.25
"""A first frame counts as due this long before it came: only what is later still goes first."""
FIRST_BATCH: Final = 4
"""Frames in a batch that starts a speaker: nine tenths of the speed on published cards."""
TOO_LATE_S: Final = 1.0
"""Frames later than this are given up while more of them wait than one batch holds. A recovery
from a lack of memory is shorter: it loses none."""
_LEAST_FILL: Final = 7 / 8  # a batch costs a constant and its bucket: less fill costs more than two


@dataclass(frozen=True, slots=True)
class Queued:
    """A request and since when it waits."""

    request: FrameRequest
    since: float
    droppable: bool = True
    """Whether its session would rather miss it than have it late."""

    @property
    def due(self) -> float:
        """What the order goes by."""
        if self.request.frame_index == 0:
            return min(self.request.deadline, self.since - FIRST_LEAD_S)
        return self.request.deadline


@dataclass(frozen=True, slots=True)
class Statistics:
    """How full the queue is."""

    waiting: int
    room: int


class Scheduler:
    """One bounded queue for all sessions, taken from by deadline; equal ones as they came."""

    def __init__(self, bound: int = QUEUE_FRAMES, *, pads: bool = False) -> None:
        """`pads`: a batch costs as much as the bucket around it."""
        self._bound = bound
        self._pads = pads
        # For each session a heap of (due, number, entry): numbers make entries comparable.
        self._queues: dict[str, list[tuple[float, int, Queued]]] = {}
        self._waiting = 0
        self._offered = 0

    def offer(self, request: FrameRequest, now: float, *, droppable: bool = True) -> bool:
        """Queue a request, or return that there is no room: its session has to be told."""
        if self._waiting >= self._bound:
            return False
        self._offered += 1
        self._waiting += 1
        entry = Queued(request, now, droppable)
        queue = self._queues.setdefault(request.session, [])
        heapq.heappush(queue, (entry.due, self._offered, entry))
        return True

    def take(self, limit: int, now: float) -> tuple[Queued, ...]:
        """Return the next batch, at most `limit` requests; empty only if nothing waits."""
        size = self._size(min(limit, self._waiting))
        heads = [_place(queue, 0, now) for queue in self._queues.values()]
        heapq.heapify(heads)
        batch: list[Queued] = []
        while len(batch) < size and not _is_start(batch):
            turn, _, _, session = heads[0]
            batch.append(self._pop(session))
            if session in self._queues:
                heapq.heapreplace(heads, _place(self._queues[session], turn + 1, now))
            else:
                heapq.heappop(heads)
        return tuple(batch)

    def shed(self, limit: int, now: float) -> tuple[FrameRequest, ...]:
        """Give up frames until one batch holds all that are too late, and return them.

        Each time it is the oldest late frame of the session that is most behind. First frames
        are kept, and the last one that waits of each session: its face goes on moving.
        """
        excess = sum(self._too_late(queue, now) for queue in self._queues.values()) - limit
        given_up = []
        while excess > 0:
            behind = [
                (queue[0][:2], session)
                for session, queue in self._queues.items()
                if len(queue) > 1 and _is_too_late(queue[0][2], now)
            ]
            if not behind:
                break
            given_up.append(self._pop(min(behind)[1]).request)
            excess -= 1
        return tuple(given_up)

    def cancel(self, session: str, epoch: int) -> int:
        """Throw away the requests of a session that are older than `epoch`; return how many."""
        queue = self._queues.pop(session, [])
        kept = [entry for entry in queue if entry[2].request.epoch >= epoch]
        if kept:
            heapq.heapify(kept)
            self._queues[session] = kept
        self._waiting -= len(queue) - len(kept)
        return len(queue) - len(kept)

    def statistics(self) -> Statistics:
        """Return how full the queue is."""
        return Statistics(self._waiting, self._bound - self._waiting)

    def _size(self, frames: int) -> int:
        if not self._pads or frames == 0 or frames >= _LEAST_FILL * buckets.around(frames):
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
            return 0  # the head is the oldest: the usual case costs one look
        return sum(_is_too_late(entry, now) for _, _, entry in queue)


def _is_start(batch: list[Queued]) -> bool:
    """Whether a batch of a starting speaker is as large as it may be."""
    return len(batch) == FIRST_BATCH and any(e.request.frame_index == 0 for e in batch)


def _is_too_late(entry: Queued, now: float) -> bool:
    is_late = now - entry.request.deadline > TOO_LATE_S
    return is_late and entry.droppable and entry.request.frame_index > 0


def _place(
    queue: list[tuple[float, int, Queued]], turn: int, now: float
) -> tuple[int, float, int, str]:
    """Return where a session's next frame stands: late ones by round, the others after them."""
    due, number, entry = queue[0]
    return turn if due <= now else _NOT_LATE, due, number, entry.request.session


_NOT_LATE: Final = 1 << 30  # a round after every round of late frames
