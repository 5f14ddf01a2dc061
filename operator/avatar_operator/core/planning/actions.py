"""The actions of a plan: each one names its object and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.planning.disruption import ProtectPod, ReleasePod
from avatar_operator.core.resources.pod import PodUse

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
    """Write the PodDisruptionBudget of the service's pods with sessions."""

    name: str
    reason: str = "pods with sessions must not be evicted"
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class ApplyNetworkPolicy:
    """Write the NetworkPolicy of the service's pods."""

    name: str
    reason: str = "only the gateway and the operator may connect to pods"
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

    @property
    def gpu_use(self) -> PodUse:
        """What the pod will count as until it is observed: bound to no node yet."""
        stock = self.pool.stock
        return PodUse.of("", self.gpu_class, {names.CLAIM if stock.devices else stock.resource: 1})


@dataclass(frozen=True, slots=True)
class CreateImageCheck:
    """Create a pod without a GPU that pulls an image on a node."""

    name: str
    pool: Pool
    """Of the runtime pod whose image is pulled."""
    node: str
    reason: str
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteImageCheck:
    """Delete the image check pod with this UID, and only in this version."""

    name: str
    uid: str
    resource_version: str
    reason: str
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class AdoptPod:
    """Make an empty pod of a shared reserve a pod of this service.

    The pod must still have exactly this resource version. Its runtime keeps the settings and the
    token of the service that it was created for, which `origin` names.
    """

    name: str
    uid: str
    resource_version: str
    gpu_class: str
    origin: str
    reason: str
    owner_uid: str = ""
    """UID of the service that owns the pod now."""
    control_secret: str = ""
    """Name of the Secret that the pod reads its token from."""


@dataclass(frozen=True, slots=True)
class RestoreLabels:
    """Restore the labels of a pod that were changed by hand, in this version of the pod."""

    name: str
    uid: str
    resource_version: str
    gpu_class: str
    origin: str
    """Name of the service that the pod was created for."""
    reason: str


@dataclass(frozen=True, slots=True)
class DrainPod:
    """Stop a pod from accepting sessions; its sessions continue."""

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
    """Make a pod of the reserve a serving pod."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReservePod:
    """Make an empty pod a pod of the reserve."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete the pod with this UID, and only in this version."""

    name: str
    uid: str
    resource_version: str
    gpu_class: str
    because: Reason
    reason: str


Action = (
    ApplyControlSecret
    | ApplyBudget
    | ApplyNetworkPolicy
    | ProtectPod
    | ReleasePod
    | CreatePod
    | CreateImageCheck
    | DeleteImageCheck
    | AdoptPod
    | RestoreLabels
    | DrainPod
    | UndrainPod
    | PromotePod
    | ReservePod
    | DeletePod
)
