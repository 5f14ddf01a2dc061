"""Services that share short GPUs, played round by round against the planner.

Each round computes the shares from the demands of the round before, as the operator does, and then
plans the services in a random order. The scheduler chooses any node that fits.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.conftest import Make

from avatar_operator.core.gpus.inventory import NodeClassCache
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import fair_limits, planner, shares
from avatar_operator.core.planning.fair_share import Claim, share_out
from avatar_operator.core.planning.planner import CreatePod, DeletePod, DrainPod, UndrainPod
from avatar_operator.core.resources.pod import PodUse, RuntimePod
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.names import GPU_RESOURCE, Reason

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.state import PodState

MAKE: Final = Make()
OPTIONS: Final = planner.Options("image")
SMALL, LARGE = "rtx-4090", "a100-80gb"
PRODUCTS: Final = {SMALL: "NVIDIA-GeForce-RTX-4090", LARGE: "NVIDIA-A100-SXM4-80GB"}
MEMORY: Final = {SMALL: 24564, LARGE: 81920}
SETTLED: Final = 12
"""Rounds after the last change in which everything must have settled."""


def node(name: str, gpu_class: str, gpus: int, zone: str) -> Node:
    labels = {
        "nvidia.com/gpu.product": PRODUCTS[gpu_class],
        "nvidia.com/gpu.memory": str(MEMORY[gpu_class]),
        "zone": zone,
    }
    return MAKE.node(name, labels=labels, gpus=gpus)


def service(name: str, namespace: str = "acme", **spec: object) -> Service:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return parse_service({"metadata": metadata, "spec": spec})


class World:
    """The cluster as it really is; plans see it without a delay."""

    def __init__(self, nodes: Sequence[Node], services: Iterable[Service]) -> None:
        self.nodes = tuple(nodes)
        self.services = {each.uid: each for each in services}
        self.profiles = tuple(profile for profile in MAKE.shipped() if profile.name in PRODUCTS)
        self.cache = NodeClassCache()
        self.pods: dict[str, RuntimePod] = {}
        self.sessions: Counter[str] = Counter()
        self.draining: set[str] = set()
        self.demands: dict[str, shares.Demand] = {}
        self.shares: shares.Shares | None = None
        self.priorities: dict[str, int] = {}
        self.made = 0
        self.clock = 0.0

    def of(self, uid: str) -> tuple[RuntimePod, ...]:
        return tuple(pod for pod in self.pods.values() if pod.owner_uid == uid)

    def bound(self, uid: str) -> int:
        return sum(1 for pod in self.of(uid) if pod.node)

    def states(self, uids: Iterable[str]) -> dict[str, PodState]:
        return {
            uid: MAKE.state(self.sessions[uid], draining=uid in self.draining)
            for uid in uids
            if self.pods[uid].running
        }

    def uses(self) -> tuple[PodUse, ...]:
        """A pod that no node has accepted for a round holds nothing."""
        return tuple(
            PodUse.of(pod.node, pod.gpu_class, {GPU_RESOURCE: 1})
            for pod in self.pods.values()
            if pod.node or pod.created_at == self.clock
        )

    def share(self) -> None:
        observation = shares.Observation(
            self.nodes, self.profiles, self.uses(), self.cache, self.of, self.states,
            self.priorities,
        )  # fmt: skip
        lacking = any(demand.lacks for demand in self.demands.values())
        self.shares = shares.compute(self.demands, observation) if lacking else None

    def plan(self, uid: str) -> planner.Plan:
        own = self.of(uid)
        observed = planner.Observed(
            nodes=self.nodes,
            uses=self.uses(),
            profiles=self.profiles,
            pods=own,
            states=self.states(pod.uid for pod in own),
            has_control_secret=True,
            node_classes=self.cache,
            share=self.shares and self.shares.of(uid, stated=uid in self.demands),
        )
        return planner.plan(self.services[uid], observed, OPTIONS, self.clock)

    def reconcile(self, uid: str, rng: random.Random) -> int:
        """Plan a service once and act; return the number of actions on pods."""
        plan = self.plan(uid)
        self.demands[uid] = fair_limits.demand(self.services[uid], plan)
        acted = 0
        for action in plan.actions:
            match action:
                case CreatePod():
                    self.create(uid, action, rng)
                case DrainPod(uid=pod, because=because):
                    if because is Reason.GIVING_BACK:
                        assert not self.sessions[pod], "a pod with sessions was given back"
                    self.draining.add(pod)
                case UndrainPod(uid=pod):
                    self.draining.discard(pod)
                case DeletePod(uid=pod):
                    assert not self.sessions[pod], "a pod with sessions was deleted"
                    del self.pods[pod]
                case _:
                    continue
            acted += 1
        return acted

    def create(self, uid: str, action: CreatePod, rng: random.Random) -> None:
        self.made += 1
        each = self.services[uid]
        pod = MAKE.pod(
            action.name,
            uid=f"p{self.made}",
            service=each.key.name,
            namespace=each.key.namespace,
            owner_uid=uid,
            gpu_class=action.gpu_class,
            spec_hash=hash_spec(each, "image"),
            node="",
            created_at=self.clock,
            ready=False,
            running=False,
        )
        self.pods[pod.uid] = pod
        self.schedule(rng)

    def schedule(self, rng: random.Random) -> None:
        """Bind pods without a node, in a random order, to any node that fits."""
        waiting = [pod for pod in self.pods.values() if not pod.node]
        rng.shuffle(waiting)
        for pod in waiting:
            selector = dict(self.services[pod.owner_uid].placement.node_selector)
            used = Counter(other.node for other in self.pods.values())
            fitting = [
                each.name
                for each in self.nodes
                if each.labels["nvidia.com/gpu.product"] == PRODUCTS[pod.gpu_class]
                and selector.items() <= each.labels.items()
                and used[each.name] < each.gpus
            ]
            if fitting:
                self.pods[pod.uid] = dataclasses.replace(
                    pod, node=rng.choice(fitting), ready=True, running=True
                )

    def round(self, rng: random.Random) -> int:
        self.clock += 1
        self.share()
        order = list(self.services)
        rng.shuffle(order)
        acted = 0
        for uid in order:
            acted += self.reconcile(uid, rng)
            self.schedule(rng)
        return acted

    def fair(self) -> list[int]:
        """Return the totals of an assignment that knows nothing of who holds what."""
        found = []
        for uid, each in self.services.items():
            demand = self.demands[uid]
            selector = dict(each.placement.node_selector)
            cells = tuple(
                index
                for index, node in enumerate(self.nodes)
                if selector.items() <= node.labels.items()
                and any(
                    PRODUCTS[gpu_class] == node.labels["nvidia.com/gpu.product"]
                    for gpu_class in demand.classes
                )
            )
            priority = self.priorities.get(demand.priority_class or "", 0)
            found.append(
                Claim(
                    each.key, each.desired_replicas, cells, demand.minimum, demand.weight,
                    priority, demand.created,
                )
            )  # fmt: skip
        capacity = [node.gpus for node in self.nodes]
        return [sum(share.values()) for share in share_out(found, capacity)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes = [
        node("n0", SMALL, draw(st.integers(1, 4)), "a"),
        node("n1", SMALL, draw(st.integers(1, 4)), "b"),
        node("n2", LARGE, draw(st.integers(0, 3)), "a"),
    ]
    services = []
    for number in range(draw(st.integers(2, 5))):
        placement: dict[str, object] = {}
        if chosen := draw(st.sampled_from([(), (), (SMALL,), (LARGE,), (LARGE, SMALL)])):
            placement["gpuClasses"] = list(chosen)
        # A pod that waits for a node of its class is not moved to another class here.
        when_full = ["fallThrough", "wait", *(["createPending"] if len(chosen) == 1 else [])]
        placement["whenFull"] = draw(st.sampled_from(when_full))
        if draw(st.booleans()):
            placement["nodeSelector"] = {"zone": draw(st.sampled_from("ab"))}
        spec: dict[str, object] = {"replicas": draw(st.integers(0, 7)), "placement": placement}
        spec["weight"] = draw(st.integers(1, 4))
        if draw(st.integers(0, 3)) == 0:
            spec["template"] = {"priorityClassName": "high"}
        services.append(service(f"s{number}", namespace=draw(st.sampled_from("xy")), **spec))
    world = World(nodes, services)
    world.priorities = {"high": 1000}
    return world


def disturb(world: World, data: st.DataObject) -> None:
    """Let sessions come and end, and change the wishes of users."""
    for uid, pod in world.pods.items():
        if pod.running:
            busy = data.draw(st.integers(0, 3))
            if busy == 0:
                world.sessions[uid] = 0
            elif busy == 1 and uid not in world.draining:
                world.sessions[uid] = 1
    uid = data.draw(st.sampled_from(sorted(world.services)))
    replicas = data.draw(st.integers(0, 7))
    world.services[uid] = dataclasses.replace(world.services[uid], replicas=replicas)


@settings(deadline=None, max_examples=100)
@given(worlds(), st.randoms(use_true_random=False), st.data())
def test_shares_settle_and_are_fair_once_the_sessions_have_ended(
    world: World, rng: random.Random, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        world.round(rng)
        disturb(world, data)
    world.sessions.clear()
    for _ in range(SETTLED):
        world.round(rng)
    assert [world.round(rng) for _ in range(4)] == [0, 0, 0, 0]
    assert [world.bound(uid) for uid in world.services] == world.fair()


@settings(deadline=None, max_examples=100)
@given(worlds(), st.randoms(use_true_random=False), st.data())
def test_shares_settle_while_sessions_last_and_no_free_gpu_stays_idle(
    world: World, rng: random.Random, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        world.round(rng)
        disturb(world, data)
    for _ in range(SETTLED):
        world.round(rng)
    assert [world.round(rng) for _ in range(4)] == [0, 0, 0, 0]
    used = Counter(pod.node for pod in world.pods.values())
    for uid, demand in world.demands.items():
        if not demand.lacks:
            continue
        selector = dict(world.services[uid].placement.node_selector)
        products = {PRODUCTS[gpu_class] for gpu_class in demand.classes}
        assert not any(
            used[each.name] < each.gpus
            and each.labels["nvidia.com/gpu.product"] in products
            and selector.items() <= each.labels.items()
            for each in world.nodes
        )
