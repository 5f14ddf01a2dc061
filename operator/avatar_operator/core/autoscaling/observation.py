"""What a decision about the number of pods observes: pods, GPU classes and callers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.autoscaling.capacity import Offer, Pod
    from avatar_operator.core.resources.autoscaling import Autoscaling


@dataclass(frozen=True, slots=True)
class Demand:
    """What all gateways together report for one service."""

    waiting: int = 0
    """Callers that wait for a slot."""
    arrived: int = 0
    """Callers since the gateways started; only differences are used."""
    gateways: int = 0
    silent: int = 0
    """Gateways whose latest report is stale."""


@dataclass(frozen=True, slots=True)
class Share:
    """A service's part in a reserve that it shares with other services."""

    pods: int
    """Size of the reserve."""
    is_owner: bool
    """Whether the pods of the reserve belong to this service."""


@dataclass(frozen=True, slots=True)
class TenantBound:
    """What the quota of the tenant that a service belongs to allows it."""

    pods: int
    """Highest number of pods, existing ones included."""
    new: int
    """Pods that may be added now."""
    cost_left: Decimal | None = None
    """What pods that are added now may cost per hour; None: unlimited."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The observed state that a decision uses."""

    pods: Sequence[Pod]
    offers: Sequence[Offer]
    """GPU classes for new pods, in the order in which they are filled."""
    demand: Demand
    leaving_cost: Decimal = Decimal(0)
    """Cost per hour of deleted pods that still have sessions."""
    share: Share | None = None
    """None if the service does not share its reserve."""
    tenant: TenantBound | None = None
    """None if the service belongs to no tenant with a quota."""
    most_sessions: int | None = None
    """Sessions that the limits of its tenant allow on the service at once; None: unlimited."""

    def admitted(self, callers: int, occupied: int) -> int:
        """Return how many of further callers may have a session, if `occupied` slots are taken."""
        if self.most_sessions is None:
            return callers
        return min(callers, max(0, self.most_sessions - occupied))

    def reserve_to_keep(self, policy: Autoscaling) -> int:
        """Return how many pods of a reserve this service keeps itself."""
        if self.share is None:
            return policy.reserve
        return self.share.pods if self.share.is_owner else 0

    def has_reserve(self, policy: Autoscaling) -> bool:
        """Return whether a reserve takes the callers that arrive while a pod starts."""
        return bool(policy.reserve if self.share is None else self.share.pods)
