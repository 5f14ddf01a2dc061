"""States what a service would use of the quota of its tenant, from its latest plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus.pools import eligible
from avatar_operator.core.planning.actions import AdoptPod
from avatar_operator.core.resources.placement import WhenFull

if TYPE_CHECKING:
    from decimal import Decimal

    from avatar_operator.core.planning.plan import Plan
    from avatar_operator.core.resources.service import Service


@dataclass(frozen=True, slots=True)
class Wish:
    """What a service states after a plan."""

    wanted: int
    minimum: int = 1
    weight: int = 1
    created: str = ""
    next_cost: Decimal | None = None


def wish(service: Service, plan: Plan) -> Wish:
    """Return the pods that a service would use if its tenant had no quota.

    A service that cannot use more pods now, for example because they fail or because no GPU is
    free, wants no more than it has: the quota is for services that can use it.
    """
    live, wanted = len(plan.fleet.live), service.desired_replicas
    policy = service.autoscaling
    if plan.scaling is not None:
        policy = plan.scaling.effective.policy
        needed = max(plan.scaling.decision.figures.wanted, policy.min_replicas)
        needed = min(needed, policy.max_replicas)
        wanted = max(plan.desired, needed)
    serving = eligible(plan.pools, service.placement)
    if service.paused or plan.failures or plan.waits_for_avatars:
        wanted = min(wanted, live)
    elif service.placement.when_full is not WhenFull.CREATE_PENDING:
        adopted = sum(isinstance(action, AdoptPod) for action in plan.actions)
        free = sum(pool.stock.free for pool in serving)
        wanted = min(wanted, live + adopted + free)
    return Wish(
        wanted=wanted,
        minimum=max(1, policy.min_replicas) if policy is not None else 1,
        weight=service.weight,
        created=service.created,
        next_cost=next((pool.cost_per_hour for pool in serving if pool.stock.free), None),
    )


def is_limited(service: Service, plan: Plan) -> bool:
    """Return whether the quota of the tenant keeps a service from a pod."""
    if plan.over_quota or (plan.decision is None and plan.desired < service.desired_replicas):
        return True
    return plan.decision is not None and plan.decision.limit is Limit.TENANT_QUOTA
