"""The first-in, first-out queue of callers that wait for a slot of one service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LENGTH: Final = 1000
"""Maximum number of callers in one queue. A caller behind them would not get a slot in time."""
GRANT_HISTORY: Final = 20
"""Number of recent grants from which the waiting time is estimated."""
RETRYABLE_CODES: Final = frozenset({"no_capacity", "not_ready", "draining"})
"""Rejections after which a later attempt can succeed."""
NEAR: Final = 3
"""A caller at this position or before it gets every change at once."""
UPDATE_S: Final = 5.0
"""The other callers get a change of their position at most this often."""


@dataclass(frozen=True, slots=True)
class WaitQueue:
    """Callers in order of arrival, and the times of the last grants."""

    callers: tuple[int, ...] = ()
    """Caller ids, the longest waiting caller first."""
    grants: tuple[float, ...] = ()
    """When callers of this queue got a slot: seconds on a monotonic clock, oldest first."""

    @property
    def is_full(self) -> bool:
        """Return whether the queue accepts no more callers."""
        return len(self.callers) >= MAX_LENGTH

    def with_caller(self, caller_id: int) -> WaitQueue:
        """Return the queue with a caller added at its end."""
        return WaitQueue((*self.callers, caller_id), self.grants)

    def without(self, caller_id: int) -> WaitQueue:
        """Return the queue without a caller that stopped waiting."""
        return WaitQueue(tuple(c for c in self.callers if c != caller_id), self.grants)

    def with_grant(self, caller_id: int, now: float) -> WaitQueue:
        """Return the queue without a caller that got a slot at `now`."""
        return WaitQueue(self.without(caller_id).callers, (*self.grants, now)[-GRANT_HISTORY:])

    def position(self, caller_id: int) -> int:
        """Return the position of a caller; the next caller to be served has position 1."""
        return self.callers.index(caller_id) + 1


@dataclass(frozen=True, slots=True)
class Announcement:
    """The position that a caller was last told."""

    position: int
    at: float
    """Seconds on a monotonic clock."""


def is_due(last: Announcement | None, position: int, now: float) -> bool:
    """Return whether a caller gets an event with its position now.

    Each departure changes the position of everybody behind it, so an event for each change would
    cost the square of the number of callers. A caller far behind gets an event only every few
    seconds, or when its position has halved.
    """
    if last is None:
        return True
    if position == last.position:
        return False
    return position <= NEAR or 2 * position <= last.position or now - last.at >= UPDATE_S


def eta_ms(position: int, grants: Sequence[float], now: float) -> int | None:
    """Return the estimated waiting time in milliseconds, or None with fewer than two grants.

    The estimate is the mean interval between the recent grants, multiplied by the position.
    The time since the last grant is part of the mean, so the estimate grows while the queue
    does not move.
    """
    if len(grants) < 2 or now <= grants[0]:
        return None
    interval_s = (now - grants[0]) / len(grants)
    return round(position * interval_s * 1000)
