"""Collects what scaling needs from a service, its pods and its GPU classes, and runs a decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import capacity, scaling, schedules
from avatar_operator.core.autoscaling.observation import (
    Demand,
    Observation,
    Share,
    TenantBound,
)
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.gpus.pools import total_cost
from avatar_operator.core.resources.placement import Placement, WhenFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState

FUTURE_GPUS: Final = 10**6
"""Free GPUs assumed for `whenFull: createPending`: new nodes do not limit the decision."""


@dataclass(frozen=True, slots=True)
class ScalingContext:
    """What a decision needs besides the service, its pods and its GPU classes."""

    demand: Demand = field(default_factory=Demand)
    history: scaling.History | None = None
    """History of the previous decision; None before the first one."""
    at: float = 0.0
    """Now, in seconds, monotonic."""
    share: Share | None = None
    """The reserve that the service shares; None if it shares none."""
    claimable: Mapping[str, int] = field(default_factory=dict)
    """Pods that the service can adopt from a shared reserve, by GPU class."""
    tenant: TenantBound | None = None
    """What the quota of the service's tenant allows; None if there is none."""
    most_sessions: int | None = None
    """Sessions that the limits of its tenant allow on the service at once; None: unlimited."""
    start_s: Mapping[str, float] = field(default_factory=dict)
    """90th percentile of the measured starts, of all services, by GPU class."""


@dataclass(frozen=True, slots=True)
class ScalingInputs:
    """Everything that a decision depends on; equal inputs give equal decisions."""

    policy: Autoscaling
    """The policy as the user wrote it, without schedules."""
    observation: Observation
    history: scaling.History | None
    at: float
    """Now, in seconds, monotonic."""
    wall: float
    """Now, in seconds since 1970, for the schedules."""


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """A decision, its inputs and the policy that applied."""

    inputs: ScalingInputs
    decision: scaling.Decision
    effective: schedules.EffectivePolicy


def collect(
    service: Service,
    pods: Sequence[RuntimePod],
    leaving: Iterable[RuntimePod],
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    context: ScalingContext | None,
    now: float,
) -> ScalingInputs | None:
    """Return the inputs of a decision, or None if the service has a fixed number of pods.

    `leaving` are deleted pods that still have sessions. `now` is in seconds since 1970.
    """
    if service.replicas is not None or service.autoscaling is None or context is None:
        return None
    latency_budget_ms = batch_size.LATENCY_BUDGET_MS[service.objective]
    costs = {pool.gpu_class: pool.cost_per_hour for pool in pools}
    observation = Observation(
        pods=[
            _pod(pod, states.get(pod.uid), costs.get(pod.gpu_class), latency_budget_ms, now)
            for pod in pods
        ],
        offers=_offers(service.placement, pools, context),
        demand=context.demand,
        leaving_cost=total_cost(leaving, pools),
        share=context.share,
        tenant=context.tenant,
        most_sessions=context.most_sessions,
    )
    return ScalingInputs(service.autoscaling, observation, context.history, context.at, now)


def decide(inputs: ScalingInputs) -> ScalingResult:
    """Return the decision under the schedules that are active at `inputs.wall`."""
    effective = schedules.resolve(inputs.policy, inputs.wall)
    decision = scaling.decide(effective.policy, inputs.observation, inputs.history, inputs.at)
    waits = [decision.wake_after_s]
    if effective.until is not None:
        waits.append(max(0.0, effective.until - inputs.wall))
    wake_after_s = min((wait for wait in waits if wait is not None), default=None)
    return ScalingResult(inputs, replace(decision, wake_after_s=wake_after_s), effective)


def _pod(
    pod: RuntimePod,
    state: PodState | None,
    cost: Decimal | None,
    latency_budget_ms: float,
    now: float,
) -> capacity.Pod:
    age_s = max(0.0, now - pod.created_at)
    if state is None:
        slots = pod.sessions_per_pod
        return capacity.Pod(
            pod.uid, slots, 0, pod.ready, False, age_s, inf, reserve=pod.reserve, cost=cost
        )
    return capacity.Pod(
        uid=pod.uid,
        slots=state.capacity or pod.sessions_per_pod,
        sessions=state.sessions,
        ready=pod.ready,
        draining=state.draining,
        age_s=age_s,
        state_age_s=state.age_s,
        load_factor=capacity.load_factor(
            vram_ratio=state.vram_ratio,
            deadline_miss_ratio=state.deadline_miss_ratio,
            frame_p95_ms=state.frame_p95_ms,
            latency_budget_ms=latency_budget_ms,
            batch_share=state.batch_share,
        ),
        reserve=pod.reserve,
        cost=cost,
    )


def _offers(
    placement: Placement, pools: Sequence[Pool], context: ScalingContext
) -> list[capacity.Offer]:
    offers = [
        capacity.Offer(
            pool.gpu_class,
            pool.outcome.sessions_per_pod,
            # A pod to adopt has its GPU.
            pool.stock.free + context.claimable.get(pool.gpu_class, 0),
            pool.cost_per_hour,
            context.start_s.get(pool.gpu_class),
        )
        for pool in pools
        if isinstance(pool.outcome, batch_size.BatchPlan)
    ]
    if placement.when_full is WhenFull.CREATE_PENDING:  # after all existing GPUs
        offers += [replace(offer, free=FUTURE_GPUS) for offer in offers[:1]]
    return offers[:1] if placement.when_full is WhenFull.WAIT else offers
