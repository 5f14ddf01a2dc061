"""The input and the output of the planner: what is observed, and the plan that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from avatar_operator.core.gpus import batch_size
from avatar_operator.core.planning import rollout
from avatar_operator.core.planning.actions import Action, AdoptPod, CreatePod
from avatar_operator.core.planning.avatars import needs
from avatar_operator.core.resources.pod_defaults import PodDefaults

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.autoscaling import inputs
    from avatar_operator.core.autoscaling.inputs import ScalingContext
    from avatar_operator.core.autoscaling.scaling import Decision
    from avatar_operator.core.gpus import inventory
    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning import shared_reserve
    from avatar_operator.core.planning.avatars.needs import Needs
    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.planning.image_check import PendingImage
    from avatar_operator.core.planning.quotas import TenantTerms
    from avatar_operator.core.planning.sharing.shares import Share
    from avatar_operator.core.resources.departure import Departure
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.image_check import ImageCheck
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import PodUse, RuntimePod
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class Options:
    """The operator's settings that plans depend on."""

    image: str
    """Runtime image of services that do not name one."""
    memory_share: float = batch_size.MEMORY_SHARE
    limits: rollout.Limits = field(default_factory=rollout.Limits)
    key_generation: str = ""
    """Generation of the current master key; empty in offline commands, which have no key."""
    defaults: PodDefaults = field(default_factory=PodDefaults)
    """Merged into each service before it is planned."""
    egress: Sequence[Mapping[str, object]] | None = None
    """Egress rules of the NetworkPolicy of each service; None if services have none."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a plan depends on besides the service itself."""

    nodes: tuple[Node, ...]
    uses: tuple[PodUse, ...]
    """GPU use of every pod in the cluster."""
    profiles: tuple[GPUProfile, ...]
    pods: tuple[RuntimePod, ...]
    """Pods of this service."""
    states: Mapping[str, PodState]
    """Latest states, by UID of the pod."""
    has_control_secret: bool
    node_classes: inventory.NodeClassCache | None = None
    """A cache that is kept from plan to plan; it does not change the result."""
    scaling_context: ScalingContext | None = None
    """Inputs of the scaling decision; None keeps `minReplicas`."""
    has_pdb: bool = True
    has_network_policy: bool = True
    """True as well if services have none."""
    halted: rollout.Halt | None = None
    """The halt of this spec generation that the status contains."""
    shared: shared_reserve.SharedReserve | None = None
    """None if the service shares no reserve."""
    failures: tuple[Failure, ...] = ()
    """Pods of this service that failed to start, as the status or the previous plan has them."""
    others_wait: bool = False
    """Whether a service whose pods start lacks a GPU."""
    image_checks: tuple[ImageCheck, ...] = ()
    """Image check pods of this service."""
    names_elsewhere: Collection[str] = ()
    """Names of pods that were created for this service and adopted by another one."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Why the state of a pod is unknown, by UID, for each pod that should send one."""
    share: Share | None = None
    """The GPUs that the service may use; None if no shortage concerns it."""
    tenant: TenantTerms | None = None
    """The terms of the tenant that the service belongs to; None if it belongs to none."""
    needs: Needs | None = None
    """What the service needs of Avatar resources; None if it names none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions to take now, and the facts that they follow from."""

    desired: int
    pools: tuple[Pool, ...]
    inventory: inventory.Inventory
    fleet: Fleet
    missing: int
    """Pods for which no GPU was found."""
    actions: tuple[Action, ...]
    wake_after_s: float | None
    """Plan again after this many seconds, even without an event."""
    scaling: inputs.ScalingResult | None = None
    """None if the number of pods is fixed."""
    halted: rollout.Halt | None = None
    silent: Mapping[str, str] = field(default_factory=dict)
    """As observed."""
    failures: tuple[Failure, ...] = ()
    """Pods that failed to start, with those that this plan deletes."""
    held: int = 0
    """Pods that would not use a GPU yet, because the spec failed or is not proven."""
    closed: frozenset[str] = frozenset()
    """Classes that are not tried now, because they rejected a pod of the spec."""
    unfit: int = 0
    """Pods that no node accepts for another reason than its GPUs."""
    share: Share | None = None
    """The share that limits the plan; None if no shortage concerns the service."""
    tenant: TenantTerms | None = None
    """As observed."""
    over_quota: int = 0
    """Pods that the quota of the tenant did not allow to create."""
    needs: Needs | None = None
    """As observed."""
    pending_image: PendingImage | None = None
    """The image that must be pulled before a pod makes room for it."""
    departures: Mapping[str, Departure] = field(default_factory=dict)
    """Why nodes of the service's pods are about to leave, by name of the node."""

    @property
    def waits_for_avatars(self) -> bool:
        """Whether no pod is created, because it would find no avatar that it may serve."""
        return needs.stops(self.needs, self.fleet)

    @property
    def new_pods(self) -> tuple[CreatePod | AdoptPod, ...]:
        """The actions that give the service another pod."""
        return tuple(each for each in self.actions if isinstance(each, CreatePod | AdoptPod))

    @property
    def decision(self) -> Decision | None:
        """The scaling decision, None if the number of pods is fixed."""
        return None if self.scaling is None else self.scaling.decision
