"""Divides what an AvatarTenant may use among the services that belong to it.

`spec.limits.gpus` and `spec.limits.costPerHour` bound all pods of these services together. Two
rules apply to each plan:

- The share of a service (`QuotaShare.pods`) bounds its number of pods. A service with more pods
  gives back those without a session, and no others.
- What the tenant has left (`QuotaShare.new`, `QuotaShare.cost_left`) bounds the pods that a plan
  creates. It is read from the pods that exist, so that the sum never exceeds the limit while a
  share moves from one service to another.

The shares are filled like those of GPUs that are short (see `sharing.fair_share`): each service
gets its minimum first, and each further pod goes to the service with the fewest for its weight.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling.observation import TenantBound
from avatar_operator.core.planning.sharing.fair_share import Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.scale_up import NewPods
    from avatar_operator.core.resources.service import Service, ServiceKey
    from avatar_operator.core.resources.tenant import Quota, SessionLimits

UNLIMITED: Final = 10**6
"""Pods of a service without a limit on GPUs."""


@dataclass(frozen=True, slots=True)
class Member:
    """A service that belongs to the tenant: what it wants and what it holds."""

    key: ServiceKey
    wanted: int
    """Pods in all that it would use if the tenant had no limit."""
    costs: tuple[Decimal, ...] = ()
    """Cost per hour of each of its pods, those that must stay first; 0 if it is unknown."""
    locked: int = 0
    """Pods that must stay, because they may have sessions."""
    minimum: int = 1
    weight: int = 1
    created: str = ""
    """Creation time in RFC 3339; of equal services, the older one comes first."""
    next_cost: Decimal | None = None
    """Cost per hour of one more pod; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class QuotaShare:
    """What one service may use of the quota of its tenant."""

    quota: Quota
    pods: int
    """Highest number of its pods, existing ones included."""
    new: int
    """Pods that it may add now."""
    cost_left: Decimal | None
    """What pods that it adds now may cost per hour; None: unlimited."""
    others: int = 0
    """Pods of the other services of the tenant."""
    cost: Decimal = Decimal(0)
    """Cost per hour of all pods of the tenant."""


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What the tenant that a service belongs to means for its plan."""

    name: str
    weight: int = 1
    priority: int = 0
    gpu_classes: frozenset[str] = field(default_factory=frozenset)
    """GPU classes that the tenant may use; empty: all."""
    share: QuotaShare | None = None
    """None if the tenant has no quota."""
    owns_reserve: bool = False
    """Whether the pods of the shared reserve of the service count for the tenant already."""
    most_sessions: int | None = None
    """Sessions that the limits of the tenant allow on the service at once; None: unlimited."""


@dataclass(frozen=True, slots=True)
class Division:
    """The pods of each member, and what is left of the quota."""

    pods: tuple[int, ...]
    gpus_left: int
    cost_left: Decimal | None
    """None: unlimited."""

    def most(self, index: int, member: Member) -> int:
        """Return the highest number of pods of a member.

        What no member wants is free for each of them: its latest wish may not be known yet.
        """
        pods = self.pods[index]
        if self.cost_left is None:
            return pods + self.gpus_left
        price = _price(member, pods)
        if price is None:
            return pods
        return pods + min(self.gpus_left, int(self.cost_left // price) if price else UNLIMITED)


def divide(members: Sequence[Member], quota: Quota) -> Division:
    """Return the pods that each member may have.

    Equal inputs give equal results. Pods that must stay are counted even if they exceed the quota.
    """
    shares = [member.locked for member in members]
    gpus = inf if quota.gpus is None else quota.gpus - sum(shares)
    cost = quota.cost_per_hour
    if cost is not None:
        cost -= sum((c for each in members for c in islice(each.costs, each.locked)), Decimal(0))
    claims = [
        Claim(each.key, each.wanted, (), each.minimum, each.weight, created=each.created)
        for each in members
    ]
    turns = [
        (claim.turn(shares[index]), index)
        for index, claim in enumerate(claims)
        if shares[index] < claim.wanted
    ]
    heapq.heapify(turns)
    while turns and gpus >= 1:
        _, index = heapq.heappop(turns)
        if cost is not None:
            price = _price(members[index], shares[index])
            if price is None or price > cost:
                continue  # a service with cheaper pods may still get one
            cost -= price
        gpus -= 1
        shares[index] += 1
        if shares[index] < claims[index].wanted:
            heapq.heappush(turns, (claims[index].turn(shares[index]), index))
    left = UNLIMITED if gpus == inf else max(0, int(gpus))
    return Division(tuple(shares), left, None if cost is None else max(Decimal(0), cost))


def share_of(index: int, members: Sequence[Member], quota: Quota) -> QuotaShare:
    """Return what one of the members may use."""
    division = divide(members, quota)
    held = [len(member.costs) for member in members]
    cost = sum((sum(member.costs, Decimal(0)) for member in members), Decimal(0))
    return QuotaShare(
        quota=quota,
        pods=division.most(index, members[index]),
        new=UNLIMITED if quota.gpus is None else max(0, quota.gpus - sum(held)),
        cost_left=None if quota.cost_per_hour is None else quota.cost_per_hour - cost,
        others=sum(held) - held[index],
        cost=cost,
    )


def most_sessions(limits: SessionLimits, elsewhere: int) -> int | None:
    """Return how many sessions a tenant may have on a service, None if there is no limit.

    `elsewhere` are its sessions on the other services that belong to it.
    """
    left = None if limits.sessions is None else max(0, limits.sessions - elsewhere)
    bounds = (left, limits.sessions_per_service)
    return min((each for each in bounds if each is not None), default=None)


def restrict(service: Service, terms: TenantTerms | None) -> Service:
    """Return the service with the GPU classes that its tenant may use."""
    if terms is None or not terms.gpu_classes:
        return service
    placement = replace(
        service.placement, tenant=terms.name, tenant_classes=tuple(sorted(terms.gpu_classes))
    )
    return replace(service, placement=placement)


def bound(terms: TenantTerms | None, adoptable: int) -> TenantBound | None:
    """Return the bound of the number of pods; `adoptable` pods of the reserve are counted."""
    if terms is None or terms.share is None:
        return None
    share = terms.share
    return TenantBound(share.pods, share.new + adoptable, share.cost_left)


def limit_fixed(
    replicas: int, live: int, pools: Sequence[Pool], terms: TenantTerms | None, adoptable: int
) -> int:
    """Return how many of a fixed number of pods the quota allows, if `live` pods exist."""
    bounds = bound(terms, adoptable)
    if bounds is None:
        return replicas
    return min(replicas, bounds.pods, live + min(bounds.new, _affordable(pools, bounds.cost_left)))


def permit(terms: TenantTerms | None, count: int) -> int:
    """Return how many of `count` pods may be created."""
    return count if terms is None or terms.share is None else min(count, terms.share.new)


def within_cost(new: NewPods, terms: TenantTerms | None) -> NewPods:
    """Return the new pods without those that cost more than the tenant has left."""
    left = None if terms is None or terms.share is None else terms.share.cost_left
    if left is None:
        return new
    chosen: list[Pool] = []
    for pool in new.chosen:
        if pool.cost_per_hour is not None and pool.cost_per_hour <= left:
            left -= pool.cost_per_hour
            chosen.append(pool)
    over = len(new.chosen) - len(chosen)
    return new._replace(chosen=tuple(chosen), over_quota=new.over_quota + over)


def most_wanted(terms: TenantTerms | None, live: int, pools: Sequence[Pool]) -> int:
    """Return how many pods the quota allows at most if `live` pods exist and GPUs are free."""
    if terms is None or terms.share is None:
        return UNLIMITED
    share = terms.share
    return min(share.pods, live + min(share.new, _affordable(pools, share.cost_left)))


def _affordable(pools: Sequence[Pool], cost_left: Decimal | None) -> int:
    """Return how many pods of the cheapest class a cost pays for."""
    if cost_left is None:
        return UNLIMITED
    lowest = min(
        (pool.cost_per_hour for pool in pools if pool.can_serve and pool.cost_per_hour),
        default=None,
    )
    return 0 if lowest is None else min(UNLIMITED, max(0, int(cost_left // lowest)))


def _price(member: Member, pods: int) -> Decimal | None:
    return member.costs[pods] if pods < len(member.costs) else member.next_cost
