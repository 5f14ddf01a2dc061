"""Says which schedules of a policy are in force at a time, and until when nothing changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from avatar_operator.core.resources import cron

if TYPE_CHECKING:
    from avatar_operator.core.resources.autoscaling import Autoscaling, Schedule


@dataclass(frozen=True, slots=True)
class InForce:
    """The policy of a moment."""

    policy: Autoscaling
    names: tuple[str, ...] = ()  # of the schedules that are in force
    until: float | None = None  # seconds since 1970 of the next change, None: there is none


@dataclass(frozen=True, slots=True)
class _Phase:
    on: bool
    until: float | None


def in_force(policy: Autoscaling, wall: float) -> InForce:
    """Return the policy with what its schedules ask for at `wall`, in seconds since 1970.

    A schedule only adds: of the policy and all that are in force the largest
    number counts, whatever their order.
    """
    if not policy.schedules:
        return InForce(policy)
    # Crons know minutes only, so the answer is the same for all of a minute.
    minute = int(wall // 60)
    phases = [(each, _phase(each, minute)) for each in policy.schedules]
    active = [schedule for schedule, phase in phases if phase.on]
    edges = [phase.until for _, phase in phases if phase.until is not None]
    most = policy.max_replicas
    raised = replace(
        policy,
        min_replicas=min(most, max([policy.min_replicas, *(s.min_replicas or 0 for s in active)])),
        free_min=max([policy.free_min, *(s.free_min or 0 for s in active)]),
        free_percent=max([policy.free_percent, *(s.free_percent or 0 for s in active)]),
        reserve=max([policy.reserve, *(s.reserve or 0 for s in active)]),
    )
    return InForce(raised, tuple(each.name for each in active), min(edges, default=None))


@lru_cache(maxsize=4096)  # every plan of a minute asks the same, and a year may have to be searched
def _phase(schedule: Schedule, minute: int) -> _Phase:
    zone = ZoneInfo(schedule.time_zone)
    at = minute * 60.0
    started = cron.last_until(schedule.start, zone, at)
    ended = cron.last_until(schedule.end, zone, at)
    # At one moment the end of the last time comes before the start of the next one.
    on = started is not None and (ended is None or started >= ended)
    edge = schedule.end if on else schedule.start
    return _Phase(on, cron.next_after(edge, zone, at))
