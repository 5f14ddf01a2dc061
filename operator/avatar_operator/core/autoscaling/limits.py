"""Says how far the number of pods may go: by its owner's bounds, free GPUs, cost and rate."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling.capacity import Offer, Pod, worth_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.resources.autoscaling import Autoscaling, Rate


class Limit(Enum):
    """What kept a decision from giving what is needed."""

    MAX_REPLICAS = "MaxReplicas"
    FREE_GPUS = "NoFreeGPU"
    MAX_COST = "MaxCost"
    COST_UNKNOWN = "CostUnknown"  # GPUs are free, but their cost is not said
    RATE = "ScalingRate"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which numbers of pods a decision may choose, and what bounds it above."""

    least: int
    most: int
    limit: Limit
    owner_least: int
    owner_most: int

    def keep(self, pods: int) -> int:
        """Return the number within the bounds that is nearest."""
        return max(self.least, min(self.most, pods))

    def hold(self, pods: int) -> int:
        """Return the number within what the owner allows, which holds whatever else is known."""
        return max(self.owner_least, min(self.owner_most, pods))


def find(
    policy: Autoscaling, pods: Sequence[Pod], offers: Sequence[Offer], leaving_cost: Decimal
) -> Bounds:
    """Return the bounds of a service that has these pods.

    `leaving_cost` is that of pods that are deleted and wait for their sessions.
    What may be spent bounds everything, also the least number of pods.
    """
    bounds = [
        (policy.max_replicas, Limit.MAX_REPLICAS),
        (len(pods) + sum(offer.free for offer in offers), Limit.FREE_GPUS),
    ]
    least, owner_least, owner_most = policy.min_replicas, policy.min_replicas, policy.max_replicas
    if policy.min_replicas == 0 and policy.zero_after_s is None:
        least = 1  # without a time after which it goes, the last pod stays
    if policy.max_cost_per_hour is not None:
        affordable, why = _affordable(policy.max_cost_per_hour, pods, offers, leaving_cost)
        bounds.append((affordable, why))
        least = min(least, affordable)
        if affordable < len(pods):
            owner_most = min(owner_most, affordable)
        owner_least = min(owner_least, affordable)
    most, limit = min(bounds, key=lambda bound: bound[0])
    return Bounds(least, max(least, most), limit, owner_least, owner_most)


def _affordable(
    budget: Decimal, pods: Sequence[Pod], offers: Sequence[Offer], leaving_cost: Decimal
) -> tuple[int, Limit]:
    """Return how many pods may be paid, and what keeps it from being more.

    A pod that is there and whose cost nobody says counts nothing, and no new one
    of its class comes. Pods that wait for their last sessions keep new ones from
    coming, and do not send others away.
    """
    left = budget - sum((pod.cost or Decimal(0) for pod in pods), Decimal(0))
    if left < 0:
        return _payable(budget, pods), Limit.MAX_COST
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
        if paid < offer.free:  # the next class has its turn when this one's GPUs are used up
            return count, Limit.MAX_COST
    return count, Limit.COST_UNKNOWN if unknown else Limit.FREE_GPUS


def _payable(budget: Decimal, pods: Sequence[Pod]) -> int:
    kept = 0
    for pod in sorted(pods, key=worth_of, reverse=True):
        budget -= pod.cost or Decimal(0)
        if budget < 0:
            return kept
        kept += 1
    return kept


@dataclass(frozen=True, slots=True)
class Pace:
    """How many pods were decided lately: since each time the number, oldest first, not empty."""

    steps: tuple[tuple[float, int], ...]

    @classmethod
    def begun(cls, now: float, pods: int) -> Pace:
        """Return a record that begins with the pods that are there."""
        return cls(((now, pods),))

    def with_pods(self, now: float, pods: int, rate: Rate | None) -> Pace:
        """Return the record with a new decision; what a rate does not look at is forgotten."""
        if rate is None:
            return self if self.steps[-1][1] == pods else Pace.begun(now, pods)
        kept = self._within(now, rate)
        return self if pods == self.steps[-1][1] else Pace((*kept, (now, pods)))

    def paced(self, pods: int, now: float, rate: Rate | None) -> int:
        """Return how far the number may go from where it was within the period of a rate."""
        if rate is None:
            return pods
        lately = [count for _, count in self._within(now, rate)]
        up = inf if rate.up_pods is None else min(lately) + rate.up_pods
        down = -inf if rate.down_pods is None else max(lately) - rate.down_pods
        held = self.steps[-1][1]
        return int(min(pods, max(held, up)) if pods > held else max(pods, min(held, down)))

    def frees_after_s(self, now: float, rate: Rate) -> float:
        """Return when the oldest step is no longer looked at, infinite if there is one only."""
        kept = self._within(now, rate)
        return kept[1][0] + rate.period_s - now if len(kept) > 1 else inf

    def _within(self, now: float, rate: Rate) -> tuple[tuple[float, int], ...]:
        """Return the steps of the period, with the one that it began on."""
        older = sum(1 for at, _ in self.steps if at <= now - rate.period_s)
        return self.steps[max(0, older - 1) :]
