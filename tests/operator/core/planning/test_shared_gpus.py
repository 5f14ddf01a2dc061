"""Several services share GPUs in virtual time, with a scheduler and kubelets that are modelled.

Some services can never run. Those that can must get their GPUs nevertheless.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.operator.conftest import OPTIONS

from avatar_operator.core.cache.gpu_usage import ACCEPTED_S
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import attempts, failures, planner
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service

STEP_S = 0.5
CLASSES = {"rtx-4090": ("n1", 2), "h100-80gb": ("n2", 2)}
GPUS = sum(gpus for _, gpus in CLASSES.values())
NO_CPU = "not scheduled: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match"
NO_GPU = "not scheduled: 0/2 nodes are available: 1 Insufficient nvidia.com/gpu"
IDLE_S = 10.0
SOON_S = 30.0


@dataclasses.dataclass
class Applied:
    """A service, and what happened to it."""

    service: Service
    kind: str
    """`good`, or why its pods fail: `cpu` or `image`."""
    failures: tuple[Failure, ...] = ()
    created: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    """Time and class of each pod."""
    waits: bool = False
    full_at: float | None = None
    """When every pod was ready for the first time."""


class World:
    """Two nodes of two classes, and the pods on them; `bound` has the time by UID."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.now = 10_000.0
        self.applied: list[Applied] = []
        self.pods: dict[str, RuntimePod] = {}
        self.bound: dict[str, float] = {}
        self.longest_failing_s = 0.0
        self.idle_s = 0.0
        self.longest_idle_s = 0.0
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}
        self.nodes = (make.node("n1"), make.node("n2", labels=labels))
        self.profiles = tuple(p for p in make.shipped() if p.name in CLASSES)

    def apply(self, kind: str, replicas: int, when_full: str) -> Applied:
        placement = {"gpuClasses": [*CLASSES], "whenFull": when_full}
        uid = f"s{len(self.applied)}"
        service = self.make.service(replicas=replicas, placement=placement)
        key = service.key._replace(name=uid)
        self.applied.append(Applied(dataclasses.replace(service, key=key, uid=uid), kind))
        return self.applied[-1]

    def of(self, applied: Applied) -> tuple[RuntimePod, ...]:
        return tuple(pod for pod in self.pods.values() if pod.owner_uid == applied.service.uid)

    def on(self, node: str) -> int:
        return sum(pod.node == node for pod in self.pods.values())

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for applied in self.applied:
                self._reconcile(applied)
            self._schedule()
            self._start()
            self._measure()
            self.now += STEP_S

    def _reconcile(self, applied: Applied) -> None:
        pods = self.of(applied)
        uses = tuple(
            PodUse(pod.node, 1, pod.gpu_class)
            for pod in self.pods.values()
            if pod.node or (pod.rejected_at is None and self.now < pod.created_at + ACCEPTED_S)
        )
        observed = planner.Observed(
            nodes=self.nodes,
            uses=uses,
            profiles=self.profiles,
            pods=pods,
            states={pod.uid: self.make.state() for pod in pods if pod.running},
            has_control_secret=True,
            failures=applied.failures,
            others_wait=any(each.waits for each in self.applied if each is not applied),
        )
        plan = planner.plan(applied.service, observed, OPTIONS, self.now)
        applied.failures = plan.failures
        applied.waits = bool(plan.missing) and not plan.failures
        for action in plan.actions:
            if isinstance(action, planner.CreatePod):
                self._create(applied, action)
            elif isinstance(action, planner.DeletePod):
                assert not self.pods[action.uid].running
                del self.pods[action.uid]

    def _create(self, applied: Applied, action: planner.CreatePod) -> None:
        applied.created.append((self.now, action.gpu_class))
        uid = f"{action.name}-{self.now}"
        self.pods[uid] = self.make.pod(
            action.name, uid=uid, owner_uid=applied.service.uid, gpu_class=action.gpu_class,
            spec_hash=hash_spec(applied.service, OPTIONS.image), node="", phase="Pending",
            ready=False, running=False, created_at=self.now,
        )  # fmt: skip

    def _schedule(self) -> None:
        kinds = {applied.service.uid: applied.kind for applied in self.applied}
        for uid, pod in self.pods.items():
            if pod.node:
                continue
            node, gpus = CLASSES[pod.gpu_class]
            why = NO_CPU if kinds[pod.owner_uid] == "cpu" else NO_GPU
            if why is NO_CPU or self.on(node) >= gpus:
                at = self.now if pod.rejected_at is None else pod.rejected_at
                self.pods[uid] = dataclasses.replace(pod, rejected_at=at, trouble=why)
            else:
                self.bound[uid] = self.now
                self.pods[uid] = dataclasses.replace(
                    pod, node=node, rejected_at=None, trouble="", bound_at=self.now
                )

    def _start(self) -> None:
        kinds = {applied.service.uid: applied.kind for applied in self.applied}
        for uid, pod in self.pods.items():
            if pod.node and self.now > self.bound[uid]:
                if kinds[pod.owner_uid] == "image":
                    waiting = {"waiting": "ImagePullBackOff", "trouble": "ImagePullBackOff: no x"}
                    self.pods[uid] = dataclasses.replace(pod, **waiting)  # type: ignore[arg-type]
                else:
                    self.pods[uid] = dataclasses.replace(pod, running=True, ready=True)

    def _measure(self) -> None:
        lacking = False
        for applied in self.applied:
            ready = sum(pod.ready for pod in self.of(applied))
            if applied.kind == "good":
                lacking = lacking or ready < applied.service.desired_replicas
                if ready >= applied.service.desired_replicas and applied.full_at is None:
                    applied.full_at = self.now
        free = GPUS - sum(bool(pod.node) for pod in self.pods.values())
        self.idle_s = self.idle_s + STEP_S if free and lacking else 0.0
        self.longest_idle_s = max(self.longest_idle_s, self.idle_s)
        for uid, pod in self.pods.items():
            if pod.waiting:
                held_s = self.now - self.bound[uid]
                self.longest_failing_s = max(self.longest_failing_s, held_s)


@pytest.mark.parametrize("kind", ["cpu", "image"])
@pytest.mark.parametrize("when_full", ["fallThrough", "wait", "createPending"])
def test_a_service_runs_beside_ten_pods_that_never_will(
    make: Make, kind: str, when_full: str
) -> None:
    world = World(make)
    world.apply(kind, 10, when_full)
    world.run(5.0)
    good = world.apply("good", 2, "fallThrough")
    started_at = world.now
    world.run(SOON_S)
    assert good.full_at is not None
    assert good.full_at - started_at <= SOON_S


def test_a_spec_that_fails_is_tried_with_one_pod_and_ever_less_often(make: Make) -> None:
    world = World(make)
    bad = world.apply("cpu", 10, "fallThrough")
    world.run(600.0)
    for gpu_class in CLASSES:
        tries = [at for at, found in bad.created if found == gpu_class]
        gaps = [later - before for before, later in itertools.pairwise(tries)]
        assert len(tries) >= 4
        assert gaps == sorted(gaps)
        assert gaps[0] >= failures.FIRST_RETRY_S
        assert gaps[-1] >= 8 * failures.FIRST_RETRY_S
    times = [at for at, _ in bad.created]
    assert len(set(times)) == len(times)  # never two pods at once


def test_pods_without_an_image_hold_few_gpu_seconds(make: Make) -> None:
    world = World(make)
    bad = world.apply("image", 10, "fallThrough")
    world.run(600.0)
    assert world.longest_failing_s <= attempts.STUCK_S + STEP_S
    first_round = [at for at, _ in bad.created if at <= 10_000.0 + 2]
    assert len(bad.created) - len(first_round) <= 6  # 10, 20, 40, 80, 160 and 300 s apart


services = st.lists(
    st.tuples(
        st.sampled_from(["good", "good", "cpu", "image"]),
        st.integers(0, 10),
        st.sampled_from(["fallThrough", "fallThrough", "createPending"]),
        st.sampled_from([0.0, 0.5, 7.0]),
    ),
    min_size=2,
    max_size=5,
)


@example(
    [
        ("image", 6, "createPending", 0.0),
        ("good", 4, "fallThrough", 0.5),
        ("image", 6, "createPending", 0.0),
    ]
)  # the pods that waited for a node took turns on the last GPU
@example(
    [
        ("good", 5, "createPending", 0.0),
        ("image", 3, "fallThrough", 0.0),
        ("image", 1, "fallThrough", 0.0),
        ("image", 1, "fallThrough", 0.0),
        ("image", 1, "createPending", 0.0),
    ]
)  # four specs that fail
@settings(max_examples=25)
@given(services)
def test_no_gpu_idles_beside_a_service_that_could_use_it(
    make: Make, given_services: list[tuple[str, int, str, float]]
) -> None:
    world = World(make)
    for kind, replicas, when_full, delay_s in given_services:
        world.apply(kind, replicas, when_full)
        world.run(delay_s)
    world.run(120.0)
    assert world.longest_idle_s <= IDLE_S
    assert world.longest_failing_s <= attempts.STUCK_S + STEP_S
    wanted = sum(a.service.desired_replicas for a in world.applied if a.kind == "good")
    # Specs that fail are tried ever less often: until then they take turns on what is contested.
    until = world.now + failures.MAX_RETRY_S
    while sum(pod.ready for pod in world.pods.values()) < min(GPUS, wanted):
        assert world.now < until
        world.run(STEP_S)
