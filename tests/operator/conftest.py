"""Builders for the operator's tests: bodies as the API server gives them."""

from __future__ import annotations

import asyncio
import copy
import types
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from avatar_contracts import packaged_files
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner, rollout
from avatar_operator.core.resources.avatar import Avatar, parse_avatar
from avatar_operator.core.resources.gpu_profile import Curve, GPUProfile, parse_profile
from avatar_operator.core.resources.node import Node
from avatar_operator.core.resources.pod import PodUse, RuntimePod
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.core.resources.state import PodState
from avatar_operator.core.resources.tenant import Tenant, parse_tenant
from avatar_operator.fence import Fence

if TYPE_CHECKING:
    from avatar_operator.core.autoscaling import inputs
    from avatar_operator.core.planning.avatars.needs import Needs
    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.planning.quotas import TenantTerms
    from avatar_operator.core.resources.image_check import ImageCheck

Body = dict[str, Any]

CURVE: Body = {
    "model": "v15/sd-vae/fp16",
    "baseMiB": 3100,
    "perFrameMiB": 306,
    "frameBatchMs": [[1, 22.2], [4, 58.8], [8, 107.6], [16, 205.1], [32, 400.2], [64, 790.5]],
    "source": "estimate",
}


class Make:
    """Makes resource bodies and the values parsed from them."""

    def service_body(self, **spec: object) -> Body:
        metadata = {"name": "concierge", "namespace": "acme", "uid": "s1", "generation": 3}
        return {"kind": "AvatarService", "metadata": metadata, "spec": spec}

    def service(self, **spec: object) -> Service:
        return parse_service(self.service_body(**spec))

    def profile_body(self, name: str = "rtx-4090", **spec: object) -> Body:
        match = {
            "products": ["*GeForce-RTX-4090"],
            "memoryMiB": {"min": 22500, "max": 25000},
        }
        full = {"match": match, "curves": [copy.deepcopy(CURVE)], **spec}
        return {"kind": "GPUProfile", "metadata": {"name": name, "uid": name}, "spec": full}

    def profile(self, name: str = "rtx-4090", **spec: object) -> GPUProfile:
        return parse_profile(self.profile_body(name, **spec))

    def shipped(self) -> tuple[GPUProfile, ...]:
        """Return the profiles that the chart ships."""
        specs = packaged_files.gpu_profiles()
        bodies = ({"metadata": {"name": name}, "spec": spec} for name, spec in specs.items())
        return tuple(map(parse_profile, bodies))

    def node_body(self, name: str = "n1", gpus: int = 2, **labels: str) -> Body:
        known = {"nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090"}
        known["nvidia.com/gpu.memory"] = "24564"
        return {
            "kind": "Node",
            "metadata": {"name": name, "uid": name, "labels": {**known, **labels}},
            "spec": {},
            "status": {
                "allocatable": {"nvidia.com/gpu": str(gpus)},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    def node(self, name: str = "n1", **changes: object) -> Node:
        fields: Body = {
            "labels": {
                "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090",
                "nvidia.com/gpu.memory": "24564",
            },
            "gpus": 2,
            "ready": True,
            "unschedulable": False,
            "taints": (),
            **changes,
        }
        return Node(name=name, **fields)

    def pod(self, name: str = "p0", **changes: object) -> RuntimePod:
        fields: Body = {
            "namespace": "acme",
            "uid": f"uid-{name}",
            "resource_version": "7",
            "service": "concierge",
            "owner_uid": "s1",
            "gpu_class": "rtx-4090",
            "spec_hash": "current",
            "batch_size": 8,
            "sessions_per_pod": 2,
            "node": "n1",
            "ip": "10.0.0.1",
            "phase": "Running",
            "ready": True,
            "running": True,
            "terminating": False,
            "created_at": 0.0,
            "failed_at": None,
            "trouble": "",
            "image": OPTIONS.image,
            **changes,
        }
        return RuntimePod(name=name, **fields)

    def owners(self, uid: str = "s1", name: str = "concierge") -> list[Body]:
        """Return the owner references of an object of a service."""
        kind = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "AvatarService"}
        return [{**kind, "name": name, "uid": uid, "controller": True}]

    def pod_body(self, name: str = "p0", *, gpus: int = 1, **changes: Any) -> Body:
        labels = {
            "app.kubernetes.io/name": "avatar-runtime",
            "app.kubernetes.io/instance": "concierge",
            "app.kubernetes.io/managed-by": "avatar-operator",
            "avatar.musetalk.io/service": "concierge",
            "avatar.musetalk.io/gpu-class": "rtx-4090",
            "avatar.musetalk.io/spec-hash": "current",
        }
        body: Body = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": f"uid-{name}",
                "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": labels,
                "annotations": {
                    "avatar.musetalk.io/batch-size": "8",
                    "avatar.musetalk.io/sessions-per-pod": "2",
                },
                "ownerReferences": self.owners(),
            },
            "spec": {
                "nodeName": "n1",
                "containers": [
                    {
                        "name": "runtime",
                        "image": OPTIONS.image,
                        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
                    }
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "runtime", "state": {"running": {}}}],
            },
        }
        for part, fields in changes.items():
            body[part].update(fields)
        return body

    def avatar_body(self, name: str = "anna", *, uid: str = "a1", **spec: Any) -> Body:
        return {
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": uid,
                "generation": 1,
                "resourceVersion": "7",
            },
            "spec": {
                "source": {"persistentVolumeClaim": {"claimName": "films", "path": "anna.mp4"}},
                "storage": {"persistentVolumeClaim": {"claimName": "faces"}},
                "consent": "Anna Example, 2026-01-01",
                **spec,
            },
        }

    def avatar(self, **spec: Any) -> Avatar:
        return parse_avatar(self.avatar_body(**spec))

    def tenant_body(self, name: str = "acme", *, version: str = "7", **spec: Any) -> Body:
        metadata = {"name": name, "uid": f"tenant-{name}", "resourceVersion": version}
        access = {"namespaces": ["acme"]}
        return {
            "kind": "AvatarTenant",
            "metadata": {**metadata, "generation": 1},
            "spec": {"access": access, **spec},
        }

    def tenant(self, name: str = "acme", **spec: Any) -> Tenant:
        return parse_tenant(self.tenant_body(name, **spec))

    def namespace_body(self, name: str, version: str = "7", **labels: str) -> Body:
        metadata = {"name": name, "uid": f"namespace-{name}", "resourceVersion": version}
        return {"kind": "Namespace", "metadata": {**metadata, "labels": labels}}

    def job_body(self, name: str = "anna-prepare-0", **labels: str) -> Body:
        owner = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "Avatar",
            "name": "anna",
            "uid": "a1",
            "controller": True,
        }
        return {
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": f"uid-{name}",
                "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {
                    "avatar.musetalk.io/spec-hash": "current",
                    "avatar.musetalk.io/gpu-class": "rtx-4090",
                    **labels,
                },
                "annotations": {"avatar.musetalk.io/attempt": "0"},
                "ownerReferences": [owner],
            },
            "spec": {},
            "status": {},
        }

    def state(self, sessions: int = 0, **changes: object) -> PodState:
        fields: Body = {
            "capacity": 2,
            "free": 2 - min(2, sessions),
            "draining": False,
            "ready": True,
            "age_s": 0.1,
            **changes,
        }
        return PodState(sessions=sessions, **fields)

    def curve(
        self, base: int = 1000, per_frame: int = 100, points: Any = ((1, 10.0), (64, 640.0))
    ) -> Curve:
        return Curve("v15/sd-vae/fp16", base, per_frame, tuple(points))


NOW = 10_000.0
OPTIONS = planner.Options("image")


class Scenario:
    """A service and what is observed of it; two 4090s unless said otherwise."""

    def __init__(self, make: Make, gpus: int, spec: Body) -> None:
        self.make = make
        self.service = make.service(**spec)
        self.hash = hash_spec(self.service, OPTIONS.image)
        self.nodes = [make.node(gpus=gpus)]
        self.profiles = [make.profile()]
        self.pods: list[RuntimePod] = []
        self.states: dict[str, PodState] = {}
        self.has_secret = True
        self.context: inputs.ScalingContext | None = None
        self.has_pdb = True
        self.halted: rollout.Halt | None = None
        self.image_checks: list[ImageCheck] = []
        self.names_elsewhere: set[str] = set()
        self.failures: tuple[Failure, ...] = ()
        self.silent: dict[str, str] = {}
        self.needs: Needs | None = None
        self.tenant: TenantTerms | None = None
        self.uses_of_others: list[PodUse] = []

    def add(self, name: str, state: PodState | None = None, **changes: Any) -> RuntimePod:
        live = state is not None and state.sessions > 0  # as it is a moment after
        marks = {"live": live, "shielded": live}
        pod = self.make.pod(name, **{"spec_hash": self.hash, **marks, **changes})
        self.pods.append(pod)
        if state is not None:
            self.states[pod.uid] = state
        return pod

    def prove(self) -> None:
        """Add a lost pod of the current spec: a node has accepted it, so that all may follow."""
        self.add("proof", node="lost")

    def plan(self, now: float = NOW) -> planner.Plan:
        uses = [
            PodUse(pod.node, 1, pod.gpu_class)
            for pod in self.pods
            if not pod.ended and pod.rejected_at is None
        ]
        observed = planner.Observed(
            nodes=tuple(self.nodes),
            uses=(*uses, *self.uses_of_others),
            profiles=tuple(self.profiles),
            pods=tuple(self.pods),
            states=self.states,
            has_control_secret=self.has_secret,
            scaling_context=self.context,
            has_pdb=self.has_pdb,
            halted=self.halted,
            image_checks=tuple(self.image_checks),
            names_elsewhere=frozenset(self.names_elsewhere),
            failures=self.failures,
            silent=self.silent,
            needs=self.needs,
            tenant=self.tenant,
        )
        return planner.plan(self.service, observed, OPTIONS, now)

    def actions(self, now: float = NOW) -> list[tuple[str, str]]:
        return [(type(action).__name__, action.name) for action in self.plan(now).actions]


class Pauses:
    """Stands for `asyncio.sleep` in a module: a pause lasts until the test ends it."""

    def __init__(self) -> None:
        self._pending: list[tuple[float, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def replace_in(self, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a module make all its pauses here."""
        changed = types.SimpleNamespace(**{**vars(asyncio), "sleep": self._sleep})
        monkeypatch.setattr(module, "asyncio", changed)

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        pause = (seconds, asyncio.get_running_loop().create_future())
        self._pending.append(pause)
        self._changed.set()
        try:
            await pause[1]
        finally:
            self._pending.remove(pause)

    @property
    def lengths(self) -> list[float]:
        """The seconds of all pauses that have not ended, the shortest first."""
        return sorted(seconds for seconds, _ in self._pending)

    async def end(self, at_least_s: float, at_most_s: float | None = None) -> float:
        """Wait for a pause of this length, end it, and return its seconds."""
        longest_s = at_least_s if at_most_s is None else at_most_s
        async with asyncio.timeout(10):
            while True:
                for seconds, end in self._pending:
                    if at_least_s <= seconds <= longest_s and not end.done():
                        end.set_result(None)
                        await self.settle()
                        return seconds
                self._changed.clear()
                await self._changed.wait()

    async def settle(self) -> None:
        """Run all tasks until each of them waits for something."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


class Scenarios(Protocol):
    """Makes scenarios; keyword arguments are fields of the service's spec."""

    def __call__(self, *, gpus: int = 2, **spec: Any) -> Scenario: ...


@pytest.fixture(scope="session")
def scenarios(make: Make) -> Scenarios:
    def new(*, gpus: int = 2, **spec: Any) -> Scenario:
        return Scenario(make, gpus, spec)

    return new


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture
def fence() -> Fence:
    """Return the fence of a process that always leads."""
    fence = Fence()
    fence.open_until(inf, epoch=7)
    return fence
