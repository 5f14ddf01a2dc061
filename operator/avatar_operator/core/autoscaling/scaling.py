"""Decides how many pods a service should have, from its sessions, its callers and its pods.

The number of pods goes up at once. It goes down only to the highest recommendation of the
stabilization window, and only if fresh data cover the complete window. What cannot be observed
(callers of the last minutes, recommendations of the window) comes in as a `History` and goes out
as the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import capacity, figures, limits
from avatar_operator.core.autoscaling.arrivals import Arrivals
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.autoscaling.limits import Limit, ScalingRateLimit
from avatar_operator.core.autoscaling.stabilization import Recommendations

if TYPE_CHECKING:
    from avatar_operator.core.autoscaling.figures import Figures
    from avatar_operator.core.autoscaling.observation import Observation
    from avatar_operator.core.resources.autoscaling import Autoscaling

KEPT_STARTS: Final = 20
"""Start times that a history keeps."""

RATE_REVIEW_S: Final = 5.0
"""How often a falling arrival rate is reviewed; it only lowers the recommendation."""


class DecisionReason(Enum):
    """Why a decision chose its number of pods."""

    DEMAND = "Demand"  # more pods are needed
    STEADY = "Steady"  # the number of pods is right
    SURPLUS_UNPROVEN = "SurplusUnproven"  # a surplus has not lasted the stabilization window yet
    PEAK_OF_HOLD_TIME = "PeakOfHoldTime"  # down to the highest recommendation of the window
    IDLE = "Idle"  # no session and no caller for scaleToZeroAfterSeconds
    STATE_STALE = "StateStale"  # some data are stale, so the number of pods does not go down
    FROZEN_STALE = "FrozenStale"  # all data are stale, so nothing changes
    FROZEN = "Frozen"  # by annotation
    SCALE_IN_PAUSED = "ScaleInPaused"  # by annotation


@dataclass(frozen=True, slots=True)
class History:
    """What one decision passes on to the next one."""

    pods: int
    """The number of pods that was decided."""
    recommendations: Recommendations
    rate_limit: ScalingRateLimit
    arrivals: Arrivals
    starts_s: tuple[float, ...]
    """Start times of the last pods that became ready, in seconds."""
    starting: frozenset[str]
    """UIDs of the pods that were not ready."""
    busy: bool
    """Whether there was a session or a caller."""
    busy_at: float
    """When there was a session or a caller last, in seconds, monotonic."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many pods a service should have, and why."""

    pods: int
    reserve: int
    """The part of `pods` that belongs to the reserve."""
    reason: DecisionReason
    limit: Limit | None
    figures: Figures
    history: History
    wake_after_s: float | None
    """Decide again after this many seconds; None if only new data can change the decision."""

    @property
    def is_blind(self) -> bool:
        """Whether all data are stale, so that nothing can be decided."""
        return self.reason is DecisionReason.FROZEN_STALE


def decide(
    policy: Autoscaling, observation: Observation, history: History | None, now: float
) -> Decision:
    """Return how many pods the service should have; `now` is in seconds, monotonic.

    `policy` is the effective one: schedules are not evaluated here.
    """
    known = _update(history or _initial(observation, now), observation, now)
    measured_s = capacity.measured_start_s(observation.offers)
    overdue_s = capacity.overdue_s(observation.pods, known.starts_s, measured_s)
    rate = known.arrivals.per_s(now)
    seen = figures.calculate(policy, observation, rate, known.starts_s, overdue_s)
    bounds = limits.find_bounds(
        policy,
        observation.pods,
        observation.offers,
        observation.leaving_cost,
        observation.tenant,
    )
    needed = bounds.clamp(seen.wanted)
    wanted = max(seen.wanted, policy.min_replicas)
    limit = bounds.limit if wanted > bounds.maximum else None
    idle = _is_idle(policy, observation, seen, known, now)
    if idle:
        needed, limit = 0, None
    # Stale data cannot prove a surplus, so all pods count as needed meanwhile.
    recommended = max(needed, known.pods) if seen.silent else needed
    recommendations = known.recommendations.with_recommendation(
        now, recommended, policy.down_after_s
    )
    held = bounds.clamp_to_policy(known.pods)
    known = replace(known, recommendations=recommendations, pods=held)
    chosen, reason = _choose(policy, observation, known, seen, needed, idle=idle, now=now)
    pods = chosen
    if not idle:
        pods = bounds.clamp_to_policy(known.rate_limit.limit(chosen, now, policy.rate))
    rate_limit = known.rate_limit.with_decision(now, pods, policy.rate)
    known = replace(known, pods=pods, rate_limit=rate_limit)
    return Decision(
        pods=pods,
        reserve=min(observation.reserve_to_keep(policy), max(0, pods - seen.serving)),
        reason=reason,
        limit=limit if pods >= chosen else Limit.RATE,
        figures=seen,
        history=known,
        wake_after_s=_wake_after_s(policy, observation, known, seen, overdue_s, now),
    )


def _initial(observation: Observation, now: float) -> History:
    """Return the history of an operator that has just started: it keeps the existing pods."""
    pods = len(observation.pods)
    return History(
        pods=pods,
        recommendations=Recommendations.starting(now, pods),
        rate_limit=ScalingRateLimit.starting(now, pods),
        arrivals=Arrivals.starting(now, observation.demand.arrived),
        starts_s=(),
        starting=frozenset(),
        # No session was seen yet, but where pods run one may just have ended.
        busy=pods > 0,
        busy_at=-inf,
    )


def _update(before: History, observation: Observation, now: float) -> History:
    """Return the history with the observed callers and the pods that became ready."""
    demand = observation.demand
    known = before.arrivals.with_count(now, demand.arrived)
    has_arrivals = known is not before.arrivals
    starting = frozenset(pod.uid for pod in observation.pods if not pod.ready)
    starts_s = before.starts_s
    if before.starting - starting:
        started = (p.age_s for p in observation.pods if p.ready and p.uid in before.starting)
        starts_s = (*starts_s, *started)[-KEPT_STARTS:]
    busy = has_arrivals or demand.waiting > 0 or any(pod.sessions for pod in observation.pods)
    return replace(
        before,
        arrivals=known,
        starts_s=starts_s,
        starting=starting,
        busy=busy,
        busy_at=now if busy or before.busy else before.busy_at,
    )


def _is_idle(
    policy: Autoscaling, observation: Observation, seen: Figures, known: History, now: float
) -> bool:
    """Return whether the service may scale to zero."""
    if policy.zero_after_s is None or policy.min_replicas or observation.reserve_to_keep(policy):
        return False
    return not (seen.sessions or seen.waiting) and now - known.busy_at >= policy.zero_after_s


def _choose(
    policy: Autoscaling,
    observation: Observation,
    known: History,
    seen: Figures,
    needed: int,
    *,
    idle: bool,
    now: float,
) -> tuple[int, DecisionReason]:
    """Return the number of pods before the rate limit, and the rule that gives it.

    The first rule that applies decides: freeze annotation, no fresh data at all, scale up,
    scale-in annotation, some stale data, scale to zero, stabilization window.
    """
    held = known.pods
    if policy.freeze:
        return held, DecisionReason.FROZEN
    sources = observation.demand.gateways + sum(1 for pod in observation.pods if pod.ready)
    if seen.silent and seen.silent == sources:
        return held, DecisionReason.FROZEN_STALE
    if needed > held and _is_cut_off(observation):
        return held, DecisionReason.STATE_STALE
    if needed >= held:
        return needed, DecisionReason.DEMAND if needed > held else DecisionReason.STEADY
    if policy.pause_scale_in:
        return held, DecisionReason.SCALE_IN_PAUSED
    if seen.silent:
        return held, DecisionReason.STATE_STALE
    if idle:
        return needed, DecisionReason.IDLE
    if not known.recommendations.covers(now, policy.down_after_s):
        return held, DecisionReason.SURPLUS_UNPROVEN
    highest = max(needed, known.recommendations.maximum(now, policy.down_after_s))
    if highest < held:
        return highest, DecisionReason.PEAK_OF_HOLD_TIME
    return held, DecisionReason.SURPLUS_UNPROVEN


def _is_cut_off(observation: Observation) -> bool:
    """Return whether the states of all ready pods are stale while no caller waits.

    A fault between the operator and the pods is then more likely than a fault of all pods.
    """
    ready = [pod for pod in observation.pods if pod.ready]
    silent = all(pod.state_age_s > STALE_S for pod in ready)
    return bool(ready) and silent and not observation.demand.waiting


def _wake_after_s(
    policy: Autoscaling,
    observation: Observation,
    known: History,
    seen: Figures,
    overdue_s: float,
    now: float,
) -> float | None:
    """Return after how many seconds time alone may change the decision, None if it cannot."""
    waits = []
    pods = known.pods
    if policy.rate is not None:
        waits.append(known.rate_limit.relaxes_after_s(now, policy.rate))
    if seen.arrivals_per_s > 0:
        waits.append(RATE_REVIEW_S)
    if pods > known.recommendations.latest and not (policy.freeze or policy.pause_scale_in):
        waits.append(known.recommendations.drops_after_s(now, policy.down_after_s))
    if policy.zero_after_s is not None and pods and not seen.sessions:
        waits.append(known.busy_at + policy.zero_after_s - now)
    waits += [overdue_s - p.age_s for p in observation.pods if not p.ready and p.age_s < overdue_s]
    future = [seconds for seconds in waits if 0 < seconds < inf]
    return min(future, default=None)
