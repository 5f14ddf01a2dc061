"""Applies the share of a service to its plan, and states what the service wants for the next one.

A share limits how many pods a service adds, and says how many it gives back. Only pods without a
session are given back; a pod that becomes empty later is given back then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus.pools import eligible, total_cost
from avatar_operator.core.planning import quotas
from avatar_operator.core.planning.attempts import is_unfit
from avatar_operator.core.planning.fleet import removal_cost
from avatar_operator.core.planning.sharing.fair_share import Group
from avatar_operator.core.planning.sharing.gpu_cells import Demand, is_removable
from avatar_operator.core.resources.placement import Placement, WhenFull

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.planning.plan import Plan
    from avatar_operator.core.planning.sharing.shares import Share
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState


def restrict(service: Service, share: Share | None) -> Service:
    """Return the service without pods that wait for a node, if they could take another's GPU.

    The scheduler would bind such a pod to the GPU that another service gave back or waits for.
    """
    waits = service.placement.when_full is WhenFull.CREATE_PENDING
    if share is None or not share.contested or not waits:
        return service
    return replace(service, placement=replace(service.placement, when_full=WhenFull.FALL_THROUGH))


def cap(pools: tuple[Pool, ...], fleet: Fleet, share: Share | None) -> tuple[Pool, ...]:
    """Return the pools with the free GPUs that the service may use."""
    if share is None:
        return pools
    held = Counter(pod.gpu_class for pod in fleet.live if _counts(pod, share))
    return tuple(_capped(pool, share, held[pool.gpu_class]) for pool in pools)


def surplus(
    service: Service,
    fleet: Fleet,
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    share: Share | None,
) -> tuple[RuntimePod, ...]:
    """Return the pods to give back, those with the lowest removal cost first.

    Outdated pods come first, because they leave in any case.
    """
    if share is None or keeps_all(service):
        return ()
    current = {pod.uid for pod in fleet.current}
    ordered = sorted(
        # A pod that no node accepts takes no GPU, and counts as failed a moment later.
        (p for p in fleet.live if is_removable(p, states) and not is_unfit(p, pools)),
        key=lambda pod: (pod.uid in current, *removal_cost(pod, states), pod.name),
    )
    left = {cell: -kept for cell, kept in share.keep.items()}
    waiting: Counter[str] = Counter()
    for pod in fleet.live:
        cell = share.parts.get((pod.node, pod.gpu_class))
        if cell in left:
            left[cell] += 1
        waiting[pod.gpu_class] += not pod.node
    found = []
    for pod in ordered:
        cell = share.parts.get((pod.node, pod.gpu_class))
        if cell is not None and left.get(cell, 0) > 0:
            left[cell] -= 1
            found.append(pod)
    return (*_surplus_waiting(ordered, waiting, fleet, share), *found)


def keeps_all(service: Service) -> bool:
    """Return whether annotations forbid to remove pods of a service."""
    policy = service.autoscaling
    return service.paused or (policy is not None and (policy.freeze or policy.pause_scale_in))


def demand(service: Service, plan: Plan, now: float) -> Demand:
    """Return the GPUs that a service can use according to its plan; `now` is since 1970."""
    # A class that rejected a pod is tried again on GPUs that no other service gets.
    closed = {each.gpu_class for each in plan.failures if now < each.last_retry_at}
    serving = (pool.gpu_class for pool in eligible(plan.pools, service.placement))
    classes = tuple(each for each in serving if each not in closed | plan.closed)
    policy = service.autoscaling
    if plan.scaling is not None:
        policy = plan.scaling.effective.policy
    if policy is not None and policy.max_cost_per_hour is not None:
        unpriced = {pool.gpu_class for pool in plan.pools if pool.cost_per_hour is None}
        classes = tuple(each for each in classes if each not in unpriced)
    tenant = plan.tenant
    has = len(plan.fleet.live) - plan.unfit
    if service.placement.when_full is WhenFull.CREATE_PENDING:
        has = sum(1 for pod in plan.fleet.live if pod.node)
    return Demand(
        key=service.key,
        wanted=_wanted(service, plan, now),
        has=has,
        minimum=max(1, policy.min_replicas) if policy is not None else 1,
        weight=service.weight,
        priority_class=service.template.priority_class,
        created=service.created,
        classes=classes,
        placement=Placement(
            node_selector=service.placement.node_selector,
            tolerations=service.placement.tolerations,
        ),
        keeps_all=keeps_all(service),
        group=None if tenant is None else Group(tenant.name, tenant.weight, tenant.priority),
    )


def _counts(pod: RuntimePod, share: Share) -> bool:
    """Return whether a pod counts for the share: it has a GPU of a cell, or waits for one."""
    return not pod.node or (pod.node, pod.gpu_class) in share.parts


def _capped(pool: Pool, share: Share, held: int) -> Pool:
    allowed = share.allowed.get(pool.gpu_class)
    if allowed is None or pool.stock.free <= allowed - held:
        return pool
    return replace(pool, stock=replace(pool.stock, free=max(0, allowed - held)))


def _surplus_waiting(
    ordered: list[RuntimePod], waiting: Counter[str], fleet: Fleet, share: Share
) -> tuple[RuntimePod, ...]:
    """Return the pods without a node that could take a GPU which another service gets."""
    if not share.contested:
        return ()
    held = Counter(pod.gpu_class for pod in fleet.live if _counts(pod, share))
    left = {
        gpu_class: min(waiting[gpu_class], held[gpu_class] - allowed)
        for gpu_class, allowed in share.allowed.items()
    }
    found = []
    for pod in ordered:
        if not pod.node and left.get(pod.gpu_class, 0) > 0:
            left[pod.gpu_class] -= 1
            found.append(pod)
    return tuple(found)


def _wanted(service: Service, plan: Plan, now: float) -> int:
    """Return how many GPUs the service would use at once if they were free.

    A service that may not add pods now, for example because they failed repeatedly, wants no more
    than it has: a GPU that waits for it would be idle. A spec that no pod has proven gets one pod.
    """
    live, new = len(plan.fleet.live) - plan.unfit, len(plan.new_pods)
    complete = len(plan.fleet.current) >= plan.desired
    failing = any(not each.gpu_class and now < each.last_retry_at for each in plan.failures)
    if service.paused or failing or not (complete or new or plan.missing):
        return min(plan.desired, live + new)
    wanted = min(plan.desired, live + new + plan.missing)
    if not any(pod.node for pod in plan.fleet.current):
        return min(wanted, live + max(new, 0 if plan.unfit else 1))
    if plan.scaling is None or plan.scaling.decision.limit is not Limit.FREE_GPUS:
        return wanted
    policy = plan.scaling.effective.policy
    bounds = [plan.scaling.decision.figures.wanted, policy.max_replicas]
    bounds.append(quotas.most_wanted(plan.tenant, live, plan.pools))
    if policy.max_cost_per_hour is not None:
        bounds.append(live + _affordable(plan, policy.max_cost_per_hour))
    return max(wanted, min(bounds))


def _affordable(plan: Plan, max_cost: Decimal) -> int:
    """Return how many more pods the maximum cost allows on any class of the service."""
    left = max_cost - total_cost(plan.fleet.live + plan.fleet.leaving, plan.pools)
    highest = max(
        (pool.cost_per_hour for pool in plan.pools if pool.can_serve and pool.cost_per_hour),
        default=None,
    )
    return 0 if highest is None else max(0, int(left // highest))
