"""Schedules: which of them are active at a time, and what they change in the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from avatar_operator.core.resources import cron

if TYPE_CHECKING:
    from avatar_operator.core.resources.autoscaling import Autoscaling, Schedule


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """The policy at a time, with the minimums of the active schedules."""

    policy: Autoscaling
    names: tuple[str, ...] = ()
    """Names of the active schedules."""
    until: float | None = None
    """Next change, in seconds since 1970; None if there is none."""


@dataclass(frozen=True, slots=True)
class _Phase:
    active: bool
    until: float | None


def resolve(policy: Autoscaling, wall: float) -> EffectivePolicy:
    """Return the effective policy at `wall`, in seconds since 1970.

    A schedule only raises minimums: the largest value of the policy and of all active schedules
    counts, in any order.
    """
    if not policy.schedules:
        return EffectivePolicy(policy)
    # Cron expressions have a resolution of one minute, so the result holds for the minute.
    minute = int(wall // 60)
    phases = [(each, _phase(each, minute)) for each in policy.schedules]
    active = [schedule for schedule, phase in phases if phase.active]
    edges = [phase.until for _, phase in phases if phase.until is not None]
    most = policy.max_replicas
    raised = replace(
        policy,
        min_replicas=min(most, max([policy.min_replicas, *(s.min_replicas or 0 for s in active)])),
        free_min=max([policy.free_min, *(s.free_min or 0 for s in active)]),
        free_percent=max([policy.free_percent, *(s.free_percent or 0 for s in active)]),
        reserve=max([policy.reserve, *(s.reserve or 0 for s in active)]),
    )
    return EffectivePolicy(raised, tuple(each.name for each in active), min(edges, default=None))


@lru_cache(maxsize=4096)  # every plan of a minute asks the same, and the search may cover years
def _phase(schedule: Schedule, minute: int) -> _Phase:
    zone = ZoneInfo(schedule.time_zone)
    at = minute * 60.0
    started = cron.last_until(schedule.start, zone, at)
    ended = cron.last_until(schedule.end, zone, at)
    # If start and end fall on the same minute, the next period starts there.
    active = started is not None and (ended is None or started >= ended)
    edge = schedule.end if active else schedule.start
    return _Phase(active, cron.next_after(edge, zone, at))
