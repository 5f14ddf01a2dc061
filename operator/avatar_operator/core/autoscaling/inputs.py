"""Sees a service, its pods and its classes as scaling does, and asks it for their number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import capacity, scaling, schedules
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.resources.service import Placement, Service, WhenFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

GPUS_TO_COME: Final = 10**6  # of nodes that someone adds for pods that wait: no bound of ours


@dataclass(frozen=True, slots=True)
class Scene:
    """What a number of pods is decided from, besides the service and its pods."""

    demand: scaling.Demand = field(default_factory=scaling.Demand)
    history: scaling.History | None = None  # None: nothing was decided yet
    at: float = 0.0  # now, in seconds, monotonic
    share: scaling.Share | None = None  # of a reserve with others, None: it has its own
    lent: Mapping[str, int] = field(default_factory=dict)  # pods to take over, by GPU class


@dataclass(frozen=True, slots=True)
class Question:
    """All that a decision depends on: asked again, it is answered in the same way."""

    policy: Autoscaling  # as its owner wrote it
    observation: scaling.Observation
    history: scaling.History | None
    at: float  # seconds, monotonic
    wall: float  # seconds since 1970, for the schedules


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, and the schedules that were in force."""

    question: Question
    decision: scaling.Decision
    in_force: schedules.InForce


def ask(
    service: Service,
    pods: Sequence[RuntimePod],
    leaving: Iterable[RuntimePod],
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    scene: Scene | None,
    now: float,
) -> Question | None:
    """Return what to ask scaling, None if the owner of the service says how many pods it has.

    `leaving` are pods that were deleted and wait for their sessions.
    """
    if service.replicas is not None or service.autoscaling is None or scene is None:
        return None
    budget_ms = batch_size.BUDGET_MS[service.objective]
    costs = {pool.gpu_class: pool.cost_per_hour for pool in pools}
    paid = (costs.get(pod.gpu_class) or Decimal(0) for pod in leaving)
    seen = scaling.Observation(
        pods=[_pod(p, states.get(p.uid), costs.get(p.gpu_class), budget_ms, now) for p in pods],
        offers=_offers(service.placement, pools, scene.lent),
        demand=scene.demand,
        leaving_cost=sum(paid, Decimal(0)),
        share=scene.share,
    )
    return Question(service.autoscaling, seen, scene.history, scene.at, now)


def answer(question: Question) -> Answer:
    """Return the decision, with the schedules of the time taken into account."""
    current = schedules.in_force(question.policy, question.wall)
    decision = scaling.decide(current.policy, question.observation, question.history, question.at)
    waits = [decision.wake_after_s]
    if current.until is not None:
        waits.append(max(0.0, current.until - question.wall))
    wake_after_s = min((wait for wait in waits if wait is not None), default=None)
    return Answer(question, replace(decision, wake_after_s=wake_after_s), current)


def _pod(
    pod: RuntimePod,
    state: PodState | None,
    cost: Decimal | None,
    budget_ms: float,
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
        heard_s=state.age_s,
        strain=capacity.strain(
            vram_ratio=state.vram_ratio,
            deadline_miss_ratio=state.deadline_miss_ratio,
            frame_p95_ms=state.frame_p95_ms,
            budget_ms=budget_ms,
            batch_share=state.batch_share,
        ),
        reserve=pod.reserve,
        cost=cost,
    )


def _offers(
    placement: Placement, pools: Sequence[Pool], lent: Mapping[str, int]
) -> list[capacity.Offer]:
    offers = [
        capacity.Offer(
            pool.gpu_class,
            pool.outcome.sessions_per_pod,
            pool.stock.free + lent.get(pool.gpu_class, 0),  # a pod to take over has its GPU
            pool.cost_per_hour,
        )
        for pool in pools
        if isinstance(pool.outcome, batch_size.BatchPlan)
    ]
    if placement.when_full is WhenFull.CREATE_PENDING:  # after all that are there
        offers += [replace(offer, free=GPUS_TO_COME) for offer in offers[:1]]
    return offers[:1] if placement.when_full is WhenFull.WAIT else offers
