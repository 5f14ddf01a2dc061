"""Who may wait for a slot, and what the waiting callers of one service are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_gateway.core import leases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_gateway import errors

GRANT_HISTORY: Final = 20
"""Number of recent grants from which the waiting time is estimated."""
RETRYABLE_CODES: Final = frozenset({"no_capacity", "not_ready", "draining"})
"""Rejections after which a later attempt can succeed."""
OWN_LIMITS: Final = frozenset({leases.SESSIONS, leases.SESSIONS_PER_SERVICE})
"""Limits of a tenant that permit another session as soon as one of its own ends."""
NEAR: Final = 3
"""A caller at this position or before it gets every change at once."""
UPDATE_S: Final = 5.0
"""The other callers get a change of their position at most this often."""
ROUND_S: Final = 0.1
"""The positions of all callers are computed at most this often."""
CALLERS_PER_S: Final = 5000
"""And for at most this many callers a second, which takes about 2 % of a core."""


def is_own_limit(rejection: errors.Rejection) -> bool:
    """Return whether a caller is refused only until another session of its tenant ends."""
    return rejection.code == "quota_exceeded" and rejection.param in OWN_LIMITS


def is_temporary(rejection: errors.Rejection) -> bool:
    """Return whether a caller that waits may be accepted later."""
    return rejection.code in RETRYABLE_CODES or is_own_limit(rejection)


def with_grant(grants: Sequence[float], now: float) -> tuple[float, ...]:
    """Return the times of the last grants with one more: seconds on a monotonic clock."""
    return (*grants, now)[-GRANT_HISTORY:]


def round_s(callers: int) -> float:
    """Return the time between two computations of the positions of all callers, in seconds."""
    return max(ROUND_S, callers / CALLERS_PER_S)


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
