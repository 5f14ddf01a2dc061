"""Pods of the simulated cluster: their true state, and what the operator sees of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from avatar_operator.core.resources.node import Node
from avatar_operator.core.resources.pod import RuntimePod
from avatar_operator.core.resources.state import PodState

if TYPE_CHECKING:
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.service import Service

EPOCH_S: Final = 1_700_000_000.0  # wall time at which virtual time starts


@dataclass(slots=True)
class SimulatedPod:
    """A pod of the simulated cluster."""

    name: str
    uid: str
    gpu_class: str
    slots: int
    batch_size: int
    spec_hash: str
    created_s: float
    ready: bool = False
    draining: bool = False
    reserve: bool = False
    version: int = 1
    sessions: set[int] = field(default_factory=set)
    seen: PodState | None = None  # latest state that the operator has received
    seen_s: float = 0.0
    silent_until_s: float = 0.0

    @property
    def free(self) -> int:
        """Free slots."""
        return self.slots - len(self.sessions) if self.ready and not self.draining else 0

    @property
    def preference(self) -> tuple[bool, float, str]:
        """Sort key by which gateways choose a pod, largest first: the reserve comes last."""
        return not self.reserve, len(self.sessions) / self.slots, self.name

    def send_state(self, now: float) -> None:
        """Send the state to the operator, unless the stream is silent."""
        if not self.ready or now < self.silent_until_s:
            return
        count = len(self.sessions)
        self.seen = PodState(
            sessions=count,
            capacity=self.slots,
            free=self.slots - count,
            draining=self.draining,
            ready=True,
            age_s=0.0,
        )
        self.seen_s = now

    def state(self, now: float) -> PodState | None:
        """Return the latest state that the operator has received, with its age."""
        return None if self.seen is None else replace(self.seen, age_s=now - self.seen_s)

    def as_runtime_pod(self, service: Service) -> RuntimePod:
        """Return the pod as the API server reports it."""
        return RuntimePod(
            name=self.name,
            namespace=service.key.namespace,
            uid=self.uid,
            resource_version=str(self.version),
            service=service.key.name,
            owner_uid=service.uid,
            gpu_class=self.gpu_class,
            spec_hash=self.spec_hash,
            batch_size=self.batch_size,
            sessions_per_pod=self.slots,
            node=node_name(self.gpu_class),
            ip="10.0.0.1",
            phase="Running",
            ready=self.ready,
            running=self.ready or self.version > 1,
            terminating=False,
            created_at=EPOCH_S + self.created_s,
            failed_at=None,
            trouble="",
            reserve=self.reserve,
        )


def node_name(gpu_class: str) -> str:
    """Return the name of the node that has all GPUs of a class."""
    return f"node-{gpu_class}"


def node(profile: GPUProfile, gpus: int) -> Node:
    """Return the node with the GPUs of a class."""
    product = next((name.replace("*", "") for name in profile.products), "")
    memory = (profile.memory_min_mib + profile.memory_max_mib) // 2
    return Node(
        name=node_name(profile.name),
        labels={"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory)},
        gpus=gpus,
        ready=True,
        unschedulable=False,
        taints=(),
    )
