"""Sees a service, its pods and its classes as scaling does, and asks it for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from avatar_operator.core import batch, model, scaling
from avatar_operator.core.pools import Pool

GPUS_TO_COME: Final = 10**6  # of nodes that someone adds for pods that wait: no bound of ours


@dataclass(frozen=True, slots=True)
class Scene:
    """What a number of pods is decided from, besides the service and its pods."""

    demand: scaling.Demand = field(default_factory=scaling.Demand)
    history: scaling.History | None = None  # None: nothing was decided yet
    at: float = 0.0  # now, in seconds, monotonic


def size(
    service: model.Service,
    pods: Sequence[model.RuntimePod],
    pools: Sequence[Pool],
    states: Mapping[str, model.PodState],
    scene: Scene | None,
    now: float,
) -> scaling.Decision | None:
    """Return how many pods a service should have, None if its owner says how many."""
    if service.replicas is not None or service.autoscaling is None or scene is None:
        return None
    budget_ms = batch.BUDGET_MS[service.objective]
    seen = scaling.Observation(
        pods=[_pod(pod, states.get(pod.uid), budget_ms, now) for pod in pods],
        offers=_offers(service.placement, pools),
        demand=scene.demand,
    )
    return scaling.decide(service.autoscaling, seen, scene.history, scene.at)


def _pod(
    pod: model.RuntimePod, state: model.PodState | None, budget_ms: float, now: float
) -> scaling.Pod:
    age_s = max(0.0, now - pod.created_at)
    if state is None:
        return scaling.Pod(pod.uid, pod.sessions_per_pod, 0, pod.ready, False, age_s, inf)
    return scaling.Pod(
        uid=pod.uid,
        slots=state.capacity or pod.sessions_per_pod,
        sessions=state.sessions,
        ready=pod.ready,
        draining=state.draining,
        age_s=age_s,
        heard_s=state.age_s,
        strain=scaling.strain(
            vram_ratio=state.vram_ratio,
            deadline_miss_ratio=state.deadline_miss_ratio,
            frame_p95_ms=state.frame_p95_ms,
            budget_ms=budget_ms,
            batch_share=state.batch_share,
        ),
    )


def _offers(placement: model.Placement, pools: Sequence[Pool]) -> list[scaling.Offer]:
    offers = [
        scaling.Offer(pool.gpu_class, pool.outcome.sessions_per_pod, pool.stock.free)
        for pool in pools
        if isinstance(pool.outcome, batch.BatchPlan)
    ]
    if placement.when_full is model.WhenFull.CREATE_PENDING:  # after all that are there
        offers += [replace(offer, free=GPUS_TO_COME) for offer in offers[:1]]
    return offers[:1] if placement.when_full is model.WhenFull.WAIT else offers
