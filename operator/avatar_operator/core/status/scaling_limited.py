"""Derives the condition ScalingLimited of a service from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from avatar_operator.core import text
from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus.pools import total_cost
from avatar_operator.core.status import gpu_available
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.service import Service


def find(service: Service, plan: planner.Plan) -> tuple[Finding, ...]:
    """Return which limit the number of pods has reached; nothing if the number is fixed."""
    decision = plan.decision
    if decision is None or service.autoscaling is None:
        return _fixed(service, plan)
    if decision.limit is None:
        message = "the wanted number of pods is within all limits"
        return (Finding(Condition.SCALING_LIMITED, False, Reason.WITHIN_BOUNDS, message),)
    has = len(plan.fleet.live)
    if decision.limit is Limit.RATE:
        has = plan.desired
    wanted = decision.figures.wanted
    if plan.scaling is not None:
        wanted = max(wanted, plan.scaling.effective.policy.min_replicas)
    verb = "has"
    if decision.limit is Limit.TENANT_QUOTA:
        verb, has = "may have", plan.desired
    message = f"wants {text.count(wanted, 'pod')}, {verb} {has}; "
    message += _limit(decision.limit, service, service.autoscaling, plan)
    return (Finding(Condition.SCALING_LIMITED, True, Reason(decision.limit.value), message),)


def _fixed(service: Service, plan: planner.Plan) -> tuple[Finding, ...]:
    """Return whether the quota of the tenant limits a fixed number of pods; nothing else does."""
    wanted = service.desired_replicas
    if plan.tenant is None or plan.desired >= wanted:
        return ()
    message = f"wants {text.count(wanted, 'pod')}, may have {plan.desired}; {describe_quota(plan)}"
    return (Finding(Condition.SCALING_LIMITED, True, Reason.TENANT_QUOTA, message),)


def describe_quota(plan: planner.Plan) -> str:
    """Return what the tenant of a service may use, and what it uses already."""
    assert plan.tenant is not None
    assert plan.tenant.share is not None
    name, share = plan.tenant.name, plan.tenant.share
    parts = []
    if share.quota.gpus is not None:
        may = f"{text.count(share.quota.gpus, 'GPU')} (spec.limits.gpus)"
        uses = f"its other services use {share.others}" if share.others else "no other service"
        uses += "" if share.others else " of it uses any"
        parts.append(f"AvatarTenant {name} may use {may}, {uses}")
    if share.quota.cost_per_hour is not None:
        may = f"AvatarTenant {name} may spend {share.quota.cost_per_hour} per hour"
        may += " (spec.limits.costPerHour)"
        more = "".join(
            f", one more on {pool.gpu_class} costs {pool.cost_per_hour}"
            for pool in [p for p in plan.pools if p.can_serve and p.cost_per_hour is not None][:1]
        )
        parts.append(f"{may}, its pods cost {share.cost}{more}")
    return "; ".join(parts)


def _limit(limit: Limit, service: Service, policy: Autoscaling, plan: planner.Plan) -> str:
    match limit:
        case Limit.MAX_REPLICAS:
            return f"maxReplicas is {policy.max_replicas}"
        case Limit.MAX_COST:
            return f"{_costs(plan)}; maxCostPerHour is {policy.max_cost_per_hour}"
        case Limit.COST_UNKNOWN:
            unpriced = [
                pool.gpu_class
                for pool in plan.pools
                if pool.can_serve and pool.cost_per_hour is None
            ]
            profiles = ", ".join(unpriced)
            return f"spec.costPerHour of GPUProfile {profiles} must be set if maxCostPerHour is set"
        case Limit.RATE:
            assert policy.rate is not None
            rate = policy.rate
            return f"the rate limit allows {rate.up_pods} more per {rate.period_s} s"
        case Limit.TENANT_QUOTA:
            return describe_quota(plan)
        case Limit.FREE_GPUS:
            stocks = gpu_available.describe_stocks(plan)
            return f"the cluster has {stocks}{gpu_available.describe_holders(service, plan)}"
    assert_never(limit)


def _costs(plan: planner.Plan) -> str:
    """Return the cost of all pods, deleted ones included, and the cost of one more."""
    existing = plan.fleet.live + plan.fleet.leaving
    paid = total_cost(existing, plan.pools)
    priced = [pool for pool in plan.pools if pool.can_serve and pool.cost_per_hour is not None]
    more = "".join(f", one more on {p.gpu_class} costs {p.cost_per_hour}" for p in priced[:1])
    return f"{text.count(len(existing), 'pod')} cost {paid} per hour{more}"
