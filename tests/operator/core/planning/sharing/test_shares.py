"""Services that share short GPUs, played round by round against the planner.

Each round computes the shares from the demands of the round before, as the operator does, and then
plans the services in a random order. The scheduler chooses any node that fits.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.conftest import Make

from avatar_operator.core.gpus.inventory import NodeClassCache
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner, quota_wishes, quotas
from avatar_operator.core.planning.planner import CreatePod, DeletePod, DrainPod, UndrainPod
from avatar_operator.core.planning.sharing import fair_limits, gpu_cells, shares
from avatar_operator.core.planning.sharing.fair_share import Claim, Group, share_out
from avatar_operator.core.resources.pod import PodUse, RuntimePod
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.core.resources.tenant import Quota, Tenant
from avatar_operator.core.status import conditions
from avatar_operator.names import GPU_RESOURCE, Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.state import PodState

MAKE: Final = Make()
OPTIONS: Final = planner.Options("image")
SMALL, LARGE = "rtx-4090", "a100-80gb"
PRODUCTS: Final = {SMALL: "NVIDIA-GeForce-RTX-4090", LARGE: "NVIDIA-A100-SXM4-80GB"}
MEMORY: Final = {SMALL: 24564, LARGE: 81920}
TENANTS: Final = (Tenant("acme"), Tenant("globex", weight=3), Tenant("initech", priority=1))
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
        self.demands: dict[str, gpu_cells.Demand] = {}
        self.shares: shares.Shares | None = None
        self.priorities: dict[str, int] = {}
        self.tenants: dict[str, Tenant] = {}  # by UID of the service
        self.wishes: dict[str, quota_wishes.Wish] = {}
        self.made = 0
        self.clock = 0.0
        self.lingers = 0
        """Rounds for which the object of a deleted pod exists; its process ends at once."""
        self.ends: dict[str, float] = {}  # by UID of a deleted pod
        self.deleted: list[RuntimePod] = []

    def of(self, uid: str) -> tuple[RuntimePod, ...]:
        return tuple(pod for pod in self.pods.values() if pod.owner_uid == uid)

    def bound(self, uid: str) -> int:
        return sum(1 for pod in self.of(uid) if pod.node)

    def states(self, uids: Iterable[str]) -> dict[str, PodState]:
        return {
            uid: MAKE.state(
                self.sessions[uid],
                draining=uid in self.draining,
                age_s=30.0 if uid in self.ends else 0.1,
            )
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
        observation = gpu_cells.Observation(
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
            share=None if self.shares is None else self.shares.of(uid, stated=uid in self.demands),
            tenant=self.terms(uid),
        )
        return planner.plan(self.services[uid], observed, OPTIONS, self.clock)

    def terms(self, uid: str) -> quotas.TenantTerms | None:
        tenant = self.tenants.get(uid)
        if tenant is None:
            return None
        share = None
        if tenant.quota:
            owned = self.owned(tenant.name)
            members = [self.member(each) for each in owned]
            share = quotas.share_of(owned.index(uid), members, tenant.quota)
        return quotas.TenantTerms(tenant.name, tenant.weight, tenant.priority, share=share)

    def owned(self, name: str) -> list[str]:
        return [uid for uid, tenant in self.tenants.items() if tenant.name == name]

    def member(self, uid: str) -> quotas.Member:
        pods = self.of(uid)
        states = self.states(pod.uid for pod in pods)
        locked = sum(not gpu_cells.is_removable(pod, states) for pod in pods)
        wish = self.wishes.get(uid, quota_wishes.Wish(max(1, len(pods))))
        return quotas.Member(
            self.services[uid].key,
            wish.wanted,
            (Decimal(1),) * len(pods),
            locked,
            weight=wish.weight,
            created=wish.created,
        )

    def reconcile(self, uid: str, rng: random.Random) -> int:
        """Plan a service once and act; return the number of actions on pods."""
        plan = self.plan(uid)
        self.demands[uid] = fair_limits.demand(self.services[uid], plan, self.clock)
        self.wishes[uid] = quota_wishes.wish(self.services[uid], plan)
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
                    self.delete(pod)
                case _:
                    continue
            acted += 1
        return acted

    def delete(self, uid: str) -> None:
        pod = self.pods.pop(uid)
        self.deleted.append(pod)
        if self.lingers:
            self.pods[uid] = dataclasses.replace(pod, terminating=True, ready=False)
            self.ends[uid] = self.clock + self.lingers

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
        for uid in [uid for uid, end in self.ends.items() if end <= self.clock]:
            del self.pods[uid], self.ends[uid]
        self.share()
        order = list(self.services)
        rng.shuffle(order)
        acted = 0
        for uid in order:
            acted += self.reconcile(uid, rng)
            self.schedule(rng)
        return acted

    def group(self, uid: str) -> Group | None:
        """Return the group of a service; GPUs that no shortage concerns do not count for it."""
        concerned = self.shares is not None and uid in self.shares.by_service
        return self.demands[uid].group if concerned else None

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
                    priority, demand.created, self.group(uid),
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
    for each in services:
        tenant = draw(st.sampled_from([None, *TENANTS]))
        if tenant is not None:
            world.tenants[each.uid] = tenant
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


@settings(max_examples=100)
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


@settings(max_examples=100)
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


@settings(max_examples=25)
@given(worlds(), st.lists(st.integers(0, 6), min_size=3, max_size=3), st.randoms(), st.data())
def test_no_tenant_exceeds_its_quota_and_its_services_settle(
    world: World, limits: list[int], rng: random.Random, data: st.DataObject
) -> None:
    limited = {
        tenant.name: dataclasses.replace(tenant, quota=Quota(gpus=limit))
        for tenant, limit in zip(TENANTS, limits, strict=True)
    }
    world.tenants = {uid: limited[tenant.name] for uid, tenant in world.tenants.items()}
    for number in range(3 + SETTLED):
        world.round(rng)
        for name, tenant in limited.items():
            held = sum(len(world.of(uid)) for uid in world.owned(name))
            assert held <= (tenant.quota.gpus or 0)
        if number < 3:
            disturb(world, data)
    assert [world.round(rng) for _ in range(4)] == [0, 0, 0, 0]


def place(world: World, uid: str, where: str, sessions: int = 0, **changes: object) -> RuntimePod:
    """Add a running pod of a service on a node."""
    world.made += 1
    each = world.services[uid]
    hosting = next(node for node in world.nodes if node.name == where)
    product = hosting.labels["nvidia.com/gpu.product"]
    fields: dict[str, object] = {
        "uid": f"p{world.made}",
        "service": each.key.name,
        "namespace": each.key.namespace,
        "owner_uid": uid,
        "gpu_class": next(name for name, known in PRODUCTS.items() if known == product),
        "spec_hash": hash_spec(each, "image"),
        "node": where,
        **changes,
    }
    pod = MAKE.pod(f"{each.key.name}-{world.made}", **fields)
    world.pods[pod.uid] = pod
    world.sessions[pod.uid] = sessions
    return pod


def learn(world: World) -> None:
    """Record the demand of every service, and compute the shares."""
    for uid in world.services:
        plan = world.plan(uid)
        world.demands[uid] = fair_limits.demand(world.services[uid], plan, world.clock)
    world.share()


def share_of(world: World, uid: str) -> shares.Share:
    assert world.shares is not None
    return world.shares.by_service[uid]


def actions(world: World, uid: str) -> list[str]:
    return [type(action).__name__ for action in world.plan(uid).actions]


def test_no_share_exists_while_no_service_lacks_gpus() -> None:
    world = World([node("n0", SMALL, 4, "a")], [service("one", replicas=4)])
    for _ in range(4):
        place(world, "uid-one", "n0")
    learn(world)
    assert world.shares is None


def test_nothing_is_given_back_while_enough_gpus_are_free() -> None:
    world = World([node("n0", SMALL, 5, "a")], [service("big", replicas=2), service("new")])
    for _ in range(3):  # one more than it wants, for example during a rollout
        place(world, "uid-big", "n0")
    learn(world)
    world.demands["uid-new"] = dataclasses.replace(world.demands["uid-new"], wanted=1, has=0)
    world.share()
    assert share_of(world, "uid-big").keep == {}
    assert share_of(world, "uid-new").allowed[SMALL] == 3


def test_a_gpu_that_is_about_to_become_free_counts_as_free() -> None:
    world = World([node("n0", SMALL, 4, "a")], [service("big", replicas=2), service("new")])
    for _ in range(3):  # one more than it wants
        place(world, "uid-big", "n0")
    place(world, "uid-new", "n0", terminating=True)
    learn(world)
    assert world.demands["uid-new"].lacks
    assert share_of(world, "uid-big").keep == {}


@pytest.mark.parametrize("seed", range(10))
def test_a_cluster_that_becomes_full_costs_no_service_its_ready_pod(seed: int) -> None:
    """A starting pod beyond the minimum makes room; deleted pods linger for some rounds."""
    names = {"a1": "acme", "g1": "globex", "g2": "globex", "i1": "initech", "i2": "initech"}
    known = [service(name, replicas=2 if name == "g1" else 1) for name in names]
    news = [service(f"full{number}", namespace="default", replicas=1) for number in range(3)]
    world = World([node("n0", SMALL, 4, "a"), node("n1", LARGE, 4, "a")], known)
    world.tenants = {f"uid-{name}": Tenant(tenant) for name, tenant in names.items()}
    world.lingers = 4
    for name, where in (("a1", "n0"), ("i1", "n0"), ("g2", "n0"), ("i2", "n1"), ("g1", "n1")):
        place(world, f"uid-{name}", where)
    starting = place(world, "uid-g1", "n0", ready=False, running=False)
    rng = random.Random(seed)
    world.round(rng)
    world.services |= {each.uid: each for each in news}
    for _ in range(20):
        world.round(rng)
    assert [pod.uid for pod in world.deleted] == [starting.uid]
    assert [world.bound(uid) for uid in world.services] == [1] * 8


def test_a_gpu_that_becomes_free_is_not_given_back_twice() -> None:
    world = World([node("n0", SMALL, 3, "a")], [service("big", replicas=3), service("new")])
    pods = [place(world, "uid-big", "n0") for _ in range(3)]
    learn(world)
    assert list(share_of(world, "uid-big").keep.values()) == [2]
    gone = pods[0]
    world.pods[gone.uid] = dataclasses.replace(gone, terminating=True)
    world.share()
    assert share_of(world, "uid-big").keep == {}
    assert share_of(world, "uid-big").allowed[SMALL] == 2


def test_only_as_many_pods_are_given_back_as_are_lacking_and_never_busy_ones() -> None:
    world = World([node("n0", SMALL, 4, "a")], [service("big", replicas=9), service("new")])
    busy = [place(world, "uid-big", "n0", sessions=1) for _ in range(3)]
    empty = place(world, "uid-big", "n0")
    learn(world)
    assert [each.name for each in world.plan("uid-big").actions if isinstance(each, DrainPod)] == [
        empty.name
    ]
    world.sessions[empty.uid] = 1
    world.share()
    assert not any(isinstance(each, DrainPod) for each in world.plan("uid-big").actions)
    world.sessions[busy[1].uid] = 0
    world.share()
    assert [each.uid for each in world.plan("uid-big").actions if isinstance(each, DrainPod)] == [
        busy[1].uid
    ]


def test_a_pod_of_unknown_sessions_is_not_given_back() -> None:
    world = World([node("n0", SMALL, 1, "a")], [service("old", replicas=1), service("new")])
    pod = place(world, "uid-old", "n0")
    quiet = MAKE.state(0, age_s=10.0)
    assert not gpu_cells.is_removable(pod, {pod.uid: quiet})
    assert not gpu_cells.is_removable(pod, {})
    assert gpu_cells.is_removable(pod, {pod.uid: MAKE.state(0)})
    assert gpu_cells.is_removable(dataclasses.replace(pod, running=False), {})


def test_a_gpu_that_only_one_service_can_use_is_not_taken_by_another() -> None:
    flexible = service("flexible", replicas=1)
    bound = service("bound", replicas=1, placement={"nodeSelector": {"zone": "a"}})
    other = service("other", replicas=9)
    world = World([node("n0", SMALL, 1, "a"), node("n1", SMALL, 1, "b")], [flexible, bound, other])
    learn(world)
    assert share_of(world, "uid-bound").allowed[SMALL] == 1
    assert share_of(world, "uid-flexible").allowed[SMALL] == 0  # it could land in zone a
    place(world, "uid-bound", "n0")
    learn(world)
    assert share_of(world, "uid-flexible").allowed[SMALL] == 1


def test_a_pod_on_a_cordoned_node_is_replaced_within_the_share() -> None:
    cordoned = dataclasses.replace(node("n0", SMALL, 1, "a"), unschedulable=True)
    world = World(
        [cordoned, node("n1", SMALL, 1, "a")],
        [service("moving", replicas=1), service("waiting", replicas=5)],
    )
    place(world, "uid-moving", "n0")
    learn(world)
    world.demands["uid-waiting"] = dataclasses.replace(world.demands["uid-waiting"], wanted=0)
    world.demands["uid-moving"] = dataclasses.replace(world.demands["uid-moving"], has=0)
    world.share()
    assert "CreatePod" in actions(world, "uid-moving")


def test_a_new_service_waits_while_a_gpu_is_kept_for_others() -> None:
    world = World([node("n0", SMALL, 2, "a")], [service("big", replicas=9), service("small")])
    place(world, "uid-big", "n0")
    learn(world)
    assert share_of(world, "uid-small").allowed[SMALL] == 1
    world.services["uid-late"] = service("late", replicas=1)
    assert actions(world, "uid-late") == []
    assert world.plan("uid-late").missing == 1


def test_annotations_that_forbid_removals_keep_every_pod() -> None:
    big = dataclasses.replace(service("big", replicas=2), paused=True)
    world = World([node("n0", SMALL, 2, "a")], [big, service("small", replicas=1)])
    for _ in range(2):
        place(world, "uid-big", "n0")
    learn(world)
    assert share_of(world, "uid-big").keep == {}
    assert share_of(world, "uid-small").allowed[SMALL] == 0


def test_names_of_other_namespaces_are_not_told() -> None:
    world = World(
        [node("n0", SMALL, 4, "a")],
        [
            service("big", namespace="x", replicas=3),
            service("mine", namespace="y", replicas=1),
            service("small", namespace="y", replicas=1),
        ],
    )
    for _ in range(3):
        place(world, "uid-big", "n0", sessions=1)
    place(world, "uid-mine", "n0", sessions=1)
    learn(world)
    assert share_of(world, "uid-small").held_by("y") == ({"mine": 1}, 3)
    plan = world.plan("uid-small")
    found = conditions.find(world.services["uid-small"], plan, {})
    message = next(each.message for each in found if each.condition is Condition.GPU_AVAILABLE)
    assert message.endswith("; y/mine holds 1, other namespaces hold 3 of 4 GPUs")
    assert "big" not in message


def _no_node(number: int) -> dict[str, object]:
    return {"placement": {"nodeSelector": {"zone": f"nowhere-{number}"}}}


def _unusual(number: int) -> dict[str, object]:
    return {"placement": {"tolerations": [{"key": f"taint-{number}", "operator": "Exists"}]}}


@pytest.mark.parametrize("spec_of_big", [{}, _unusual(0)], ids=["usual", "unusual"])
def test_a_tenant_cannot_keep_others_out_with_many_placements(
    spec_of_big: dict[str, object],
) -> None:
    many = [
        service(f"many-{number}", "globex", **_no_node(number))
        for number in range(2 * shares.MAX_PLACEMENTS)
    ]
    big = service("big", "globex", replicas=2, **spec_of_big)
    world = World([node("n0", SMALL, 2, "a")], [*many, big, service("late", replicas=1)])
    for _ in range(2):
        place(world, "uid-big", "n0")
    learn(world)
    assert share_of(world, "uid-late").allowed[SMALL] == 1
    assert sum(share_of(world, "uid-big").keep.values()) == 1


def test_a_service_that_waits_after_failures_wants_no_more_gpus() -> None:
    world = World([node("n0", SMALL, 2, "a")], [service("failing", replicas=2)])
    for _ in range(3):
        place(world, "uid-failing", "n0", phase="Failed", failed_at=world.clock, running=False)
    demand = fair_limits.demand(
        world.services["uid-failing"], world.plan("uid-failing"), world.clock
    )
    assert (demand.wanted, demand.lacks) == (0, False)
