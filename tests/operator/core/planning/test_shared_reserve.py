"""Tests of the reserve that services share: who keeps it, and who takes its pods over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.conftest import NOW, OPTIONS

from avatar_operator.core.autoscaling import capacity, inputs, scaling
from avatar_operator.core.autoscaling.observation import Demand, Observation, Share
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner, shared_reserve
from avatar_operator.core.planning.planner import (
    AdoptPod,
    CreatePod,
    DeletePod,
    DrainPod,
    UndrainPod,
)
from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.placement import WhenFull
from avatar_operator.core.resources.pod import PodUse, RuntimePod
from avatar_operator.core.resources.service import Service, ServiceKey, parse_service
from avatar_operator.core.status import conditions, service_status
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.state import PodState

AUTO = {
    "minReplicas": 1,
    "maxReplicas": 9,
    "freeSessions": {"min": 0, "percent": 0},
    "scaleDownAfterSeconds": 0,
    "sharedReserve": True,
}
NIGHTS = {"name": "nights", "start": "0 0 * * *", "end": "0 5 * * *"}  # NOW is 02:46 UTC


def service(make: Make, name: str, *, paused: bool = False, **spec: Any) -> Service:
    body = make.service_body(**spec)
    body["metadata"].update(name=name, uid=f"uid-{name}")
    if paused:
        body["metadata"]["annotations"] = {"avatar.musetalk.io/paused": "true"}
    return parse_service(body)


def sharer(make: Make, name: str, reserve: int = 0, **changes: Any) -> Service:
    auto = {**AUTO, "reserve": reserve, **changes.pop("autoscaling", {})}
    return service(make, name, autoscaling=auto, **changes)


def member(make: Make, name: str, reserve: int = 0, **changes: Any) -> shared_reserve.ReserveMember:
    found = shared_reserve.as_member(sharer(make, name, reserve, **changes))
    assert found is not None
    return found


class Cluster:
    """Services of one namespace and their pods, as they are and as plans see them."""

    def __init__(self, make: Make, gpus: int, *services: Service) -> None:
        self.make = make
        self.nodes: tuple[Node, ...] = (make.node(gpus=gpus),)
        self.services = {each.key.name: each for each in services}
        self.pods: dict[str, RuntimePod] = {}
        self.states: dict[str, PodState] = {}
        self.waiting: dict[str, int] = {}
        self.memories: dict[str, scaling.History] = {}
        self.now = NOW
        self.made = 0
        self.groups = shared_reserve.ReserveGroups()
        for each in services:
            self.groups.put(each.uid, "acme", shared_reserve.as_member(each))

    def of(self, name: str) -> list[RuntimePod]:
        return sorted(
            (pod for pod in self.pods.values() if pod.service == name), key=lambda pod: pod.name
        )

    def reserve(self) -> list[str]:
        return sorted(pod.service for pod in self.pods.values() if pod.reserve)

    def shared(self, name: str) -> shared_reserve.SharedReserve | None:
        own = self.services[name]
        group = self.groups.group(own.uid, "acme", self.now)
        if group is None:
            return None
        owner = group.owner.key.name
        pods = tuple(p for p in self.of(owner) if p.reserve) if owner != name else ()
        return shared_reserve.SharedReserve(group, pods, {p.uid: self.states[p.uid] for p in pods})

    def plan(self, name: str) -> planner.Plan:
        pods = tuple(self.of(name))
        demand = Demand(waiting=self.waiting.get(name, 0), gateways=1)
        lent = [p.name for p in self.pods.values() if p.made_for == name]
        observed = planner.Observed(
            nodes=self.nodes,
            uses=tuple(PodUse(p.node, 1, p.gpu_class) for p in self.pods.values()),
            profiles=(self.make.profile(),),
            pods=pods,
            states={p.uid: self.states[p.uid] for p in pods},
            has_control_secret=True,
            scaling_context=inputs.ScalingContext(demand, self.memories.get(name), self.now),
            shared=self.shared(name),
            names_elsewhere=lent,
        )
        made = planner.plan(self.services[name], observed, OPTIONS, self.now)
        assert made.scaling is not None
        self.memories[name] = made.scaling.decision.history
        return made

    def act(self, name: str, plan: planner.Plan) -> None:
        for action in plan.actions:
            match action:
                case CreatePod():
                    self.create(name, action)
                case AdoptPod(uid=uid, resource_version=version):
                    pod = self.pods[uid]
                    if pod.resource_version == version:  # else someone was quicker
                        changes = {"service": name, "owner_uid": self.services[name].uid}
                        self.change(uid, reserve=False, made_for=action.origin, **changes)
                case planner.PromotePod(uid=uid) | planner.ReservePod(uid=uid):
                    self.change(uid, reserve=isinstance(action, planner.ReservePod))
                case DrainPod(uid=uid) | UndrainPod(uid=uid):
                    draining = isinstance(action, DrainPod)
                    self.states[uid] = replace(self.states[uid], draining=draining)
                case DeletePod(uid=uid):
                    assert not self.states[uid].sessions
                    del self.pods[uid], self.states[uid]

    def change(self, uid: str, **changes: Any) -> None:
        pod = self.pods[uid]
        version = str(int(pod.resource_version) + 1)
        self.pods[uid] = replace(pod, resource_version=version, **changes)

    def create(self, name: str, action: CreatePod) -> None:
        # As the API server does: a name is given once.
        assert action.name not in {pod.name for pod in self.pods.values()}
        assert isinstance(action.pool.outcome, batch_size.BatchPlan)
        self.made += 1
        own = self.services[name]
        pod = self.make.pod(
            action.name,
            uid=f"u{self.made}",
            service=name,
            owner_uid=own.uid,
            spec_hash=hash_spec(own, OPTIONS.image),
            batch_size=action.pool.outcome.batch_size,
            sessions_per_pod=action.pool.outcome.sessions_per_pod,
            reserve=action.reserve,
            created_at=self.now,
        )
        self.pods[pod.uid] = pod
        self.states[pod.uid] = self.make.state(capacity=pod.sessions_per_pod)

    def settle(self, rounds: int = 12) -> None:
        """Let every service plan in turn until nobody does anything."""
        for _ in range(rounds):
            acted = False
            for name in self.services:
                plan = self.plan(name)
                acted = acted or bool(changes(plan))
                self.act(name, plan)
                self.now += 1.0
            if not acted:
                return
        raise AssertionError(f"no rest: {[changes(self.plan(name)) for name in self.services]}")

    def fill(self, name: str) -> None:
        """Give every pod of a service but those of the reserve all the sessions it takes."""
        for pod in self.of(name):
            if not pod.reserve:
                full = replace(self.states[pod.uid], sessions=pod.sessions_per_pod, free=0)
                self.states[pod.uid] = full


def changes(plan: planner.Plan) -> list[tuple[str, str]]:
    marks = ("ApplyBudget", "ProtectPod", "ReleasePod")
    done = [(type(action).__name__, action.name) for action in plan.actions]
    return [each for each in done if each[0] not in marks]


def adoptions(plan: planner.Plan) -> list[AdoptPod]:
    return [action for action in plan.actions if isinstance(action, AdoptPod)]


# Who shares with whom, and who keeps it.


def test_a_service_shares_only_if_it_says_so(make: Make) -> None:
    assert shared_reserve.as_member(service(make, "a", replicas=1)) is None
    assert shared_reserve.as_member(service(make, "a", autoscaling={"maxReplicas": 2})) is None
    assert member(make, "a", 2).max_reserve == 2


def test_the_one_that_asks_for_the_most_keeps_the_reserve_then_the_first_by_name(
    make: Make,
) -> None:
    a, b, c = member(make, "a", 1), member(make, "b", 2), member(make, "c", 2)
    for own in (a, b, c):
        others = [each for each in (c, a, b) if each is not own]
        group = shared_reserve.form_group(own, others, NOW)
        assert (group.owner.key.name, group.pods) == ("b", 2)


def test_schedules_count_for_how_many_now_and_for_who_keeps_them_always(make: Make) -> None:
    nightly = [{**NIGHTS, "reserve": 3}]
    a = member(make, "a", 1)
    b = member(make, "b", 0, autoscaling={"schedules": nightly})
    night = shared_reserve.form_group(a, [b], NOW)
    assert (night.owner.key.name, night.pods, night.until) == ("b", 3, 5 * 3600.0)
    day = shared_reserve.form_group(a, [b], 6 * 3600.0)
    assert (day.owner.key.name, day.pods, day.until) == ("b", 1, 24 * 3600.0)


@pytest.mark.parametrize(
    "different",
    [
        pytest.param({"avatars": ["ben"]}, id="avatars"),
        pytest.param({"sessions": {"maxDurationSeconds": 60}}, id="limits"),
        pytest.param({"template": {"image": "other"}}, id="image"),
        pytest.param({"objective": "latency"}, id="objective"),
        pytest.param({"placement": {"nodeSelector": {"a": "b"}}}, id="node selector"),
        pytest.param({"placement": {"tolerations": [{"key": "a"}]}}, id="tolerations"),
    ],
)
def test_services_whose_pods_differ_share_nothing(make: Make, different: Any) -> None:
    a, b = member(make, "a", 1), member(make, "b", 2, **different)
    assert shared_reserve.form_group(a, [b], NOW).owner == a
    assert shared_reserve.form_group(b, [a], NOW).owner == b


def test_bounds_and_classes_of_gpus_make_no_difference(make: Make) -> None:
    a = member(make, "a", 1)
    b = member(make, "b", 2, autoscaling={"maxReplicas": 3}, placement={"gpuClasses": ["l4"]})
    assert shared_reserve.form_group(a, [b], NOW).owner == b


def test_no_service_shares_with_another_namespace(make: Make) -> None:
    a, b = member(make, "a", 1), member(make, "b", 2)
    abroad = replace(b, key=ServiceKey("globex", "b"))
    assert shared_reserve.form_group(a, [abroad], NOW).owner == a


def test_a_paused_or_frozen_service_is_left_out_and_keeps_its_own(make: Make) -> None:
    a = member(make, "a", 1)
    paused = shared_reserve.as_member(
        service(make, "b", paused=True, autoscaling={**AUTO, "reserve": 2})
    )
    assert paused is not None
    assert shared_reserve.form_group(a, [paused], NOW).owner == a
    assert shared_reserve.form_group(paused, [a], NOW).owner == paused


def test_members_are_known_by_namespace_and_news_of_one_concerns_the_others(make: Make) -> None:
    groups = shared_reserve.ReserveGroups()
    a, b, other = member(make, "a", 1), member(make, "b"), member(make, "x", fps=20)
    assert groups.put("uid-a", "acme", a) == ()
    assert groups.put("uid-x", "acme", other) == ()
    assert groups.put("uid-b", "acme", b) == ("uid-a",)
    assert groups.put("uid-b", "acme", b) == ()
    assert groups.claimants("uid-a", "acme") == ("uid-b",)
    assert groups.claimants("uid-z", "acme") == ()
    larger = replace(b, policy=replace(b.policy, reserve=4))
    assert groups.put("uid-b", "acme", larger) == ("uid-a",)
    group = groups.group("uid-a", "acme", NOW)
    assert group is not None
    assert (group.owner, group.pods) == (larger, 4)
    assert groups.put("uid-b", "acme", replace(other, uid="uid-b")) == ("uid-a", "uid-x")
    assert groups.put("uid-b", "acme", None) == ("uid-x",)
    assert groups.put("uid-b", "acme", None) == ()
    assert groups.put("uid-a", "acme", None) == groups.put("uid-x", "acme", None) == ()
    assert groups.group("uid-a", "acme", NOW) is None
    assert groups.put("uid-n", "elsewhere", None) == ()


# What a plan makes of it.


def test_one_reserve_is_made_for_all_and_only_by_its_keeper(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "a", 1), sharer(make, "b"), sharer(make, "c", 2))
    cluster.settle()
    assert cluster.reserve() == ["c", "c"]
    assert {name: len(cluster.of(name)) for name in "abc"} == {"a": 1, "b": 1, "c": 3}


def test_a_pod_of_the_reserve_is_taken_over_instead_of_a_new_one_and_made_anew(
    make: Make,
) -> None:
    cluster = Cluster(make, 9, sharer(make, "claimant"), sharer(make, "owner", 1))
    cluster.settle()
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    plan = cluster.plan("claimant")
    assert changes(plan) == [("AdoptPod", warm.name)]
    (adopted,) = adoptions(plan)
    assert (adopted.uid, adopted.resource_version) == (warm.uid, warm.resource_version)
    assert (adopted.origin, adopted.gpu_class) == ("owner", "rtx-4090")
    assert adopted.reason == "1 of 2 pods exist; owner owns the reserve that claimant shares"
    cluster.act("claimant", plan)
    cluster.waiting["claimant"] = 0
    cluster.fill("claimant")
    assert cluster.reserve() == []
    cluster.settle()
    assert cluster.reserve() == ["owner"]
    origins = {pod.uid: pod.made_for for pod in cluster.of("claimant")}
    assert origins.pop(warm.uid) == "owner"
    assert list(origins.values()) == [""]


def test_at_its_start_a_service_takes_over_what_is_loaded_already(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1))
    cluster.settle()
    newcomer = sharer(make, "claimant")
    cluster.services["claimant"] = newcomer
    cluster.groups.put(newcomer.uid, "acme", shared_reserve.as_member(newcomer))
    assert [kind for kind, _ in changes(cluster.plan("claimant"))] == ["AdoptPod"]
    cluster.settle()
    assert {pod.made_for for pod in cluster.of("claimant")} == {"owner"}
    assert cluster.reserve() == ["owner"]


def test_a_pod_keeps_the_name_of_its_first_service_when_it_is_taken_over_again(
    make: Make,
) -> None:
    cluster = Cluster(make, 9, sharer(make, "a"), sharer(make, "b", 1))
    cluster.settle()
    (warm,) = [pod for pod in cluster.of("b") if pod.reserve]
    cluster.change(warm.uid, made_for="first")
    cluster.fill("a")
    cluster.waiting["a"] = 1
    assert [adopted.origin for adopted in adoptions(cluster.plan("a"))] == ["first"]


def test_the_reserve_helps_where_no_gpu_is_free(make: Make) -> None:
    cluster = Cluster(make, 3, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    plan = cluster.plan("claimant")
    assert (plan.desired, plan.missing, len(adoptions(plan))) == (2, 0, 1)
    cluster.act("claimant", plan)
    used_up = cluster.plan("owner")
    assert changes(used_up) == []
    assert service_status.lacks_gpus(used_up)  # a GPU that comes free brings it back


def test_more_than_the_reserve_is_created(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    cluster.fill("claimant")
    (pod,) = cluster.of("claimant")
    cluster.waiting["claimant"] = pod.sessions_per_pod + 1
    plan = cluster.plan("claimant")
    assert [kind for kind, _ in changes(plan)] == ["AdoptPod", "CreatePod"]
    (create,) = [action for action in plan.actions if isinstance(action, CreatePod)]
    assert create.reason.startswith("2 of 3 pods exist")
    assert not create.reserve


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"sessions": 1}, id="sessions"),
        pytest.param({"draining": True}, id="draining"),
        pytest.param({"age_s": capacity.STALE_S}, id="not heard of"),
        pytest.param({"ready": False}, id="not serving"),
    ],
)
def test_a_pod_that_is_not_empty_by_its_own_fresh_word_is_not_taken(
    make: Make, changed: Any
) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    cluster.states[warm.uid] = replace(cluster.states[warm.uid], **changed)
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    assert [kind for kind, _ in changes(cluster.plan("claimant"))] == ["CreatePod"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"reserve": False}, id="of the others"),
        pytest.param({"ready": False}, id="starting"),
        pytest.param({"terminating": True}, id="deleted"),
        pytest.param({"phase": "Failed"}, id="failed"),
        pytest.param({"drain_asked": True}, id="asked to drain"),
        pytest.param({"owner_uid": "uid-earlier"}, id="of an earlier service"),
        pytest.param({"spec_hash": "old"}, id="of an earlier spec"),
        pytest.param({"node": "n9"}, id="on a lost node"),
        pytest.param({"gpu_class": "l4"}, id="of another class"),
        pytest.param({"batch_size": 1}, id="of another batch size"),
        pytest.param({"sessions_per_pod": 1}, id="of other slots"),
    ],
)
def test_a_pod_that_is_not_just_as_ones_own_is_not_taken(make: Make, changed: Any) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    cluster.change(warm.uid, **changed)
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    assert adoptions(cluster.plan("claimant")) == []


def test_a_pod_on_a_cordoned_node_is_not_taken(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    cordoned = make.node("n2", gpus=1, unschedulable=True)
    cluster.nodes = (*cluster.nodes, cordoned)
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    cluster.change(warm.uid, node="n2")
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    assert adoptions(cluster.plan("claimant")) == []


def test_no_pod_is_taken_over_for_a_rollout_or_for_a_paused_service(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    (own,) = cluster.of("claimant")
    cluster.change(own.uid, spec_hash="old")
    assert [kind for kind, _ in changes(cluster.plan("claimant"))] == ["CreatePod"]
    cluster.change(own.uid, spec_hash=cluster.of("owner")[0].spec_hash)
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    cluster.services["claimant"] = replace(cluster.services["claimant"], paused=True)
    assert changes(cluster.plan("claimant")) == []


def test_an_adopted_pod_is_neither_created_nor_promoted_and_counts_for_its_class(
    make: Make,
) -> None:
    cluster = Cluster(make, 2, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.services = {"owner": cluster.services["owner"]}
    cluster.settle()  # the owner has both GPUs: one pod serves, one is the reserve
    claimant = sharer(make, "claimant")
    cluster.services["claimant"] = claimant
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    plan = cluster.plan("claimant")
    assert plan.inventory.stocks["rtx-4090"].free == 0
    assert changes(plan) == [("AdoptPod", warm.name)]
    assert (plan.missing, plan.desired) == (0, 1)
    assert [each.name for each in plan.new_pods] == [warm.name]
    assert plan.scaling is not None
    (offer,) = plan.scaling.inputs.observation.offers
    assert offer.free == 1  # the pod to adopt brings its GPU
    assert adoptions(plan)[0].reason == (
        "0 of 1 pods exist; owner owns the reserve that claimant shares"
    )


def test_only_as_many_pods_are_adopted_as_are_missing(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 3), sharer(make, "claimant"))
    cluster.services = {"owner": cluster.services["owner"]}
    cluster.settle()
    claimant = sharer(make, "claimant", autoscaling={"minReplicas": 2})
    cluster.services["claimant"] = claimant
    adopted = adoptions(cluster.plan("claimant"))
    warm = sorted(pod.name for pod in cluster.of("owner") if pod.reserve)
    assert [each.name for each in adopted] == warm[:2]
    assert [each.reason.split(";")[0] for each in adopted] == [
        "0 of 2 pods exist",
        "1 of 2 pods exist",
    ]


def test_what_is_taken_over_has_to_be_paid(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    poor = sharer(make, "claimant", autoscaling={"maxCostPerHour": "1"})
    cluster.services["claimant"] = poor
    cluster.groups.put(poor.uid, "acme", shared_reserve.as_member(poor))
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    assert changes(cluster.plan("claimant")) == []  # nobody says what the class costs


def test_where_only_the_best_class_is_waited_for_no_other_is_taken_over(make: Make) -> None:
    waiting = {"gpuClasses": ["l4", "rtx-4090"], "whenFull": "wait"}
    cluster = Cluster(
        make, 9, sharer(make, "owner", 1), sharer(make, "claimant", placement=waiting)
    )
    pool_of = {pool.gpu_class: pool for pool in cluster.plan("owner").pools}
    cluster.settle()
    (warm,) = [pod for pod in cluster.of("owner") if pod.reserve]
    shared = cluster.shared("claimant")
    assert shared is not None
    own = pool_of["rtx-4090"]
    better = replace(own, gpu_class="l4")
    placement = cluster.services["claimant"].placement
    asked = (shared, [better, own])
    hashed = warm.spec_hash
    assert shared_reserve.claimable_pods(*asked, placement, hashed, {"n1"}) == ()
    anywhere = replace(placement, when_full=WhenFull.FALL_THROUGH)
    assert [
        each.pod for each in shared_reserve.claimable_pods(*asked, anywhere, hashed, {"n1"})
    ] == [warm]


def test_without_a_reserve_of_its_own_a_service_is_covered_by_the_shared_one(
    make: Make,
) -> None:
    auto = autoscaling.Autoscaling(1, 99, free_min=0, free_percent=0)
    seen = Observation(
        pods=[], offers=[capacity.Offer("c", 1, 99)], demand=Demand(arrived=60, gateways=1)
    )
    busy = replace(seen, demand=replace(seen.demand, arrived=120))
    found = {}
    for share in (None, Share(2, is_owner=False), Share(2, is_owner=True)):
        first = scaling.decide(auto, replace(seen, share=share), None, 0.0)
        found[share] = scaling.decide(auto, replace(busy, share=share), first.history, 300.0)
    alone, claimant, owner = found.values()
    assert claimant.pods < alone.pods == owner.pods  # the headroom of a start is more than two pods
    assert claimant.figures.headroom < alone.figures.headroom
    assert (alone.reserve, claimant.reserve, owner.reserve) == (0, 0, 2)


def test_a_taker_may_rest_without_pods_and_starts_from_the_reserve(make: Make) -> None:
    resting = {"minReplicas": 0, "scaleToZeroAfterSeconds": 1}
    cluster = Cluster(
        make, 9, sharer(make, "owner", 1), sharer(make, "claimant", autoscaling=resting)
    )
    cluster.settle()
    for _ in range(3):
        cluster.now += 2.0
        cluster.settle()
    assert cluster.of("claimant") == []
    cluster.waiting["claimant"] = 1
    assert [kind for kind, _ in changes(cluster.plan("claimant"))] == ["AdoptPod"]


def test_what_was_taken_over_is_told(make: Make) -> None:
    cluster = Cluster(make, 9, sharer(make, "owner", 1), sharer(make, "claimant"))
    cluster.settle()
    cluster.fill("claimant")
    cluster.waiting["claimant"] = 1
    plan = cluster.plan("claimant")
    (notice,) = [
        each
        for each in service_status.notices(plan.actions, [], {})
        if each.reason is Reason.POD_ADOPTED
    ]
    (adopted,) = adoptions(plan)
    assert notice.message == f"adopted pod {adopted.name}: {adopted.reason}"
    findings = conditions.find(cluster.services["claimant"], plan, {})
    said = {finding.condition.value: finding.message for finding in findings}
    assert said["Progressing"] == "1 of 2 pods are starting"
    wanted: Any = service_status.build(cluster.services["claimant"], plan, {}, findings, {}, NOW)
    (decision,) = wanted["decisions"]
    assert decision["inputs"]["sharedReserve"] == 1


LOADS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 6)), max_size=8
)


@pytest.mark.slow
@settings(max_examples=120)
@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.integers(1, 12), LOADS)
def test_whatever_comes_no_session_is_taken_and_one_reserve_is_left(
    make: Make, reserves: list[int], gpus: int, loads: list[tuple[str, int, int]]
) -> None:
    """Play callers that come and go; plans of the three see what is there in turn or together."""
    services = [sharer(make, name, n) for name, n in zip("abc", reserves, strict=True)]
    cluster = Cluster(make, gpus, *services)
    for name, waiting, sessions in loads:
        cluster.waiting[name] = waiting
        for pod in cluster.of(name):
            some = min(sessions, pod.sessions_per_pod)
            age_s = 9.0 if sessions == 5 else 0.1
            cluster.states[pod.uid] = replace(cluster.states[pod.uid], sessions=some, age_s=age_s)
        before = dict(cluster.pods)
        plans = {each: cluster.plan(each) for each in "abc"}  # all at once, as of the same moment
        for each, plan in plans.items():
            taken = [adopted.uid for adopted in adoptions(plan)]
            assert len(taken) == len(set(taken))
            for uid in taken:
                state = cluster.states[uid]
                assert (state.sessions, state.draining) == (0, False)
                assert state.age_s < capacity.STALE_S
                assert before[uid].reserve
                assert before[uid].service != each
            creates = sum(isinstance(action, CreatePod) for action in plan.actions)
            there = len(plan.fleet.current)
            assert there + len(taken) + creates <= max(plan.desired, there)
        for each in reversed("abc"):
            plan = plans[each]
            room = gpus - len(cluster.pods)
            late = [a for a in plan.actions if isinstance(a, CreatePod)][max(0, room) :]
            kept = tuple(a for a in plan.actions if a not in late)  # the scheduler's word
            cluster.act(each, replace(plan, actions=kept))
        cluster.now += 1.0
    for uid, state in cluster.states.items():
        cluster.states[uid] = replace(state, sessions=0, age_s=0.1)
    cluster.waiting.clear()
    cluster.settle(rounds=60)
    if gpus >= 3 + max(reserves):
        assert len(cluster.reserve()) == max(reserves)
        assert len(set(cluster.reserve())) <= 1
        assert len(cluster.pods) == 3 + max(reserves)
