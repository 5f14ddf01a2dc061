"""Limits of the number of pods: the bounds of the policy, free GPUs, cost and scaling rate."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling.capacity import Offer, Pod, scale_down_priority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.autoscaling.observation import TenantBound
    from avatar_operator.core.resources.autoscaling import Autoscaling, Rate


_ANY_NUMBER: Final = 10**9


class Limit(Enum):
    """Why a decision gives fewer pods than recommended."""

    MAX_REPLICAS = "MaxReplicas"
    FREE_GPUS = "NoFreeGPU"
    MAX_COST = "MaxCost"
    COST_UNKNOWN = "CostUnknown"  # GPUs are free, but their profile has no cost
    RATE = "ScalingRate"
    TENANT_QUOTA = "TenantQuota"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lowest and the highest number of pods that a decision may choose."""

    minimum: int
    maximum: int
    limit: Limit
    """What sets `maximum`."""
    policy_minimum: int
    """The minimum of the policy alone; it holds even if data are missing."""
    policy_maximum: int
    """The maximum of the policy alone; it holds even if data are missing."""

    def clamp(self, pods: int) -> int:
        """Return the nearest number within all limits."""
        return max(self.minimum, min(self.maximum, pods))

    def clamp_to_policy(self, pods: int) -> int:
        """Return the nearest number within the bounds of the policy."""
        return max(self.policy_minimum, min(self.policy_maximum, pods))


def find_bounds(
    policy: Autoscaling,
    pods: Sequence[Pod],
    offers: Sequence[Offer],
    leaving_cost: Decimal,
    tenant: TenantBound | None = None,
) -> Bounds:
    """Return the bounds of a service that has these pods.

    `leaving_cost` is the cost per hour of deleted pods that still have sessions. The maximum cost
    and the quota of the tenant bound everything, also `minReplicas`.
    """
    bounds = [
        (policy.max_replicas, Limit.MAX_REPLICAS),
        (len(pods) + sum(offer.free for offer in offers), Limit.FREE_GPUS),
    ]
    minimum = policy_minimum = policy.min_replicas
    policy_maximum = policy.max_replicas
    if policy.min_replicas == 0 and policy.zero_after_s is None:
        minimum = 1  # without scaleToZeroAfterSeconds the last pod stays
    if policy.max_cost_per_hour is not None:
        affordable, why = _affordable(policy.max_cost_per_hour, pods, offers, leaving_cost)
        bounds.append((affordable, why))
        minimum = min(minimum, affordable)
        if affordable < len(pods):
            policy_maximum = min(policy_maximum, affordable)
        policy_minimum = min(policy_minimum, affordable)
    if tenant is not None:
        allowed = min(tenant.pods, len(pods) + min(tenant.new, _paid(tenant.cost_left, offers)))
        # Of equal bounds the first one is the limit: beyond a quota, free GPUs would not help.
        bounds.insert(1, (allowed, Limit.TENANT_QUOTA))
        minimum = min(minimum, allowed)
        if tenant.pods < len(pods):  # pods without a session are given back at once
            policy_maximum = min(policy_maximum, tenant.pods)
        policy_minimum = min(policy_minimum, allowed)
    maximum, limit = min(bounds, key=lambda bound: bound[0])
    return Bounds(minimum, max(minimum, maximum), limit, policy_minimum, policy_maximum)


def _affordable(
    max_cost: Decimal, pods: Sequence[Pod], offers: Sequence[Offer], leaving_cost: Decimal
) -> tuple[int, Limit]:
    """Return how many pods `max_cost` pays for, and what prevents more.

    An existing pod of unknown cost counts as free, and no new pod of its class is created. Deleted
    pods with sessions reduce the number of new pods, but do not cause the removal of others.
    """
    left = max_cost - sum((pod.cost or Decimal(0) for pod in pods), Decimal(0))
    if left < 0:
        return _affordable_existing(max_cost, pods), Limit.MAX_COST
    left -= leaving_cost
    count = len(pods)
    unknown = False
    for offer in offers:
        if offer.cost is None:
            unknown = unknown or offer.free > 0
            continue
        paid = max(0, min(offer.free, int(left // offer.cost)))
        count += paid
        left -= paid * offer.cost
        if paid < offer.free:  # the next class is used only after all GPUs of this one
            return count, Limit.MAX_COST
    return count, Limit.COST_UNKNOWN if unknown else Limit.FREE_GPUS


def _paid(cost_left: Decimal | None, offers: Sequence[Offer]) -> int:
    """Return how many new pods a cost pays for; None pays for any number.

    What is left after all free GPUs pays for GPUs of the cheapest class that are not free yet: that
    they are not free is no limit of the cost.
    """
    if cost_left is None:
        return _ANY_NUMBER
    count = 0
    for offer in offers:
        if offer.cost is not None:
            paid = max(0, min(offer.free, int(cost_left // offer.cost)))
            count += paid
            cost_left -= paid * offer.cost
            if paid < offer.free:  # the next class is used only after all GPUs of this one
                return count
    cheapest = min((offer.cost for offer in offers if offer.cost), default=None)
    return count if cheapest is None else count + int(max(cost_left, Decimal(0)) // cheapest)


def _affordable_existing(max_cost: Decimal, pods: Sequence[Pod]) -> int:
    kept = 0
    for pod in sorted(pods, key=scale_down_priority, reverse=True):
        max_cost -= pod.cost or Decimal(0)
        if max_cost < 0:
            return kept
        kept += 1
    return kept


@dataclass(frozen=True, slots=True)
class ScalingRateLimit:
    """The recent decisions, by which `spec.autoscaling.rate` limits the next one."""

    steps: tuple[tuple[float, int], ...]
    """(time in seconds, monotonic; number of pods decided), oldest first, never empty."""

    @classmethod
    def starting(cls, now: float, pods: int) -> ScalingRateLimit:
        """Return a record that starts now with the existing pods."""
        return cls(((now, pods),))

    def with_decision(self, now: float, pods: int, rate: Rate | None) -> ScalingRateLimit:
        """Return the record with a new decision, without steps that the rate no longer uses."""
        if rate is None:
            return self if self.steps[-1][1] == pods else ScalingRateLimit.starting(now, pods)
        kept = self._within(now, rate)
        return self if pods == self.steps[-1][1] else ScalingRateLimit((*kept, (now, pods)))

    def limit(self, pods: int, now: float, rate: Rate | None) -> int:
        """Return the number nearest to `pods` that the rate allows now."""
        if rate is None:
            return pods
        recent = [count for _, count in self._within(now, rate)]
        up = inf if rate.up_pods is None else min(recent) + rate.up_pods
        down = -inf if rate.down_pods is None else max(recent) - rate.down_pods
        current = self.steps[-1][1]
        return int(min(pods, max(current, up)) if pods > current else max(pods, min(current, down)))

    def relaxes_after_s(self, now: float, rate: Rate) -> float:
        """Return after how many seconds the oldest step expires; infinite if there is only one."""
        kept = self._within(now, rate)
        return kept[1][0] + rate.period_s - now if len(kept) > 1 else inf

    def _within(self, now: float, rate: Rate) -> tuple[tuple[float, int], ...]:
        """Return the steps of the period, and the step that held when the period started."""
        older = sum(1 for at, _ in self.steps if at <= now - rate.period_s)
        return self.steps[max(0, older - 1) :]
