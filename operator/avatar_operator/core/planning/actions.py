"""What a plan may ask for: each action names its object, and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator.core.planning.disruption import ProtectPod, ReleasePod

if TYPE_CHECKING:
    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.names import Reason


@dataclass(frozen=True, slots=True)
class ApplyControlSecret:
    """Write the Secret with the admin token of the service's pods."""

    name: str
    reason: str = "pods read their admin token from it"
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class ApplyBudget:
    """Write the PodDisruptionBudget over the service's pods with sessions."""

    name: str
    reason: str = "pods with sessions are not to be evicted"
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Create a pod on a GPU class."""

    name: str
    pool: Pool
    because: Reason
    reason: str
    reserve: bool = False

    @property
    def gpu_class(self) -> str:
        """The class that the pod is pinned to."""
        return self.pool.gpu_class


@dataclass(frozen=True, slots=True)
class AdoptPod:
    """Take over an empty pod of the reserve of a service that shares it, in exactly this version.

    The runtime goes on as what it was started for: `origin` names the service
    whose token it has.
    """

    name: str
    uid: str
    resource_version: str
    gpu_class: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainPod:
    """Let a pod accept no more sessions; those it has go on."""

    name: str
    uid: str
    gpu_class: str
    because: Reason
    reason: str


@dataclass(frozen=True, slots=True)
class UndrainPod:
    """Let a draining pod accept sessions again."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class PromotePod:
    """Let a pod of the reserve take sessions like the others."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReservePod:
    """Let an empty pod take sessions last."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete exactly this pod, and only in exactly this version if one is given."""

    name: str
    uid: str
    resource_version: str | None
    gpu_class: str
    because: Reason
    reason: str


Action = (
    ApplyControlSecret
    | ApplyBudget
    | ProtectPod
    | ReleasePod
    | CreatePod
    | AdoptPod
    | DrainPod
    | UndrainPod
    | PromotePod
    | ReservePod
    | DeletePod
)
