"""Tests of the triggers: each change triggers exactly the services that it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers import triggers
from avatar_operator.controllers.triggers import CLUSTER_S, PDB_S, PODS_S, SERVICE_S, Triggers
from avatar_operator.core.cache.entries import ChangeImpact, Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make


class RecordingQueue:
    """Takes the place of the worker and records what would be queued."""

    def __init__(self) -> None:
        self.added: dict[str, float] = {}
        self.forgotten: list[str] = []
        self.removed: list[str] = []

    def add_after(self, uid: str, delay_s: float) -> None:
        self.added[uid] = delay_s

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)

    def remove(self, uid: str) -> None:
        self.removed.append(uid)


class Setup:
    """Triggers over a store with the services `a` and `b`, each with one pod on its own node."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.store = Store(())
        self.queue = RecordingQueue()
        self.synced = True
        worker: Any = self.queue
        self.triggers = Triggers(self.store, worker, 300.0, lambda: self.synced)
        for name in ("a", "b"):
            self.observe_service(name)
            self.observe_pod(name, f"node-{name}")

    def observe_service(self, name: str, **autoscaling: Any) -> None:
        spec: Body = {"replicas": 1}
        if autoscaling:
            spec = {"autoscaling": {"maxReplicas": 3, "sharedReserve": True, **autoscaling}}
        body = self.make.service_body(**spec)
        body["metadata"].update(name=name, uid=name)
        self.store.observe(Kind.SERVICES, body)

    def observe_pod(self, service: str, node: str, **labels: str) -> None:
        body = self.make.pod_body(f"{service}-0")
        body["metadata"]["labels"].update({"avatar.musetalk.io/service": service, **labels})
        body["metadata"]["ownerReferences"] = self.make.owners(service, service)
        body["spec"]["nodeName"] = node
        self.store.observe(Kind.PODS, body)


@pytest.fixture
def setup(make: Make) -> Setup:
    return Setup(make)


def test_a_change_of_a_service_triggers_it_immediately_and_forgets_its_failures(
    setup: Setup,
) -> None:
    setup.triggers.on_change(ChangeImpact(("a",), new_spec="a"))
    assert setup.queue.added == {"a": SERVICE_S}
    assert setup.queue.forgotten == ["a"]


def test_a_change_of_a_pod_waits_for_further_changes_of_the_pod(setup: Setup) -> None:
    setup.triggers.on_change(ChangeImpact(("a",), pod="uid-a-0"))
    assert setup.queue.added == {"a": PODS_S}
    assert setup.queue.forgotten == []


def test_a_change_that_affects_all_services_triggers_them_one_after_the_other(
    setup: Setup,
) -> None:
    setup.triggers.on_change(ChangeImpact(all_services=True))
    assert setup.queue.added == {"a": CLUSTER_S, "b": CLUSTER_S + triggers.SPREAD_S}


def test_a_change_that_affects_nothing_triggers_nothing(setup: Setup) -> None:
    setup.triggers.set_lacks_gpus("a", True)
    setup.triggers.on_change(ChangeImpact())
    setup.triggers.on_change(ChangeImpact(fault="invalid"))
    assert setup.queue.added == {}


def test_the_services_of_a_changed_node_come_first(setup: Setup) -> None:
    setup.triggers.on_change(ChangeImpact(node="node-b"))
    assert setup.queue.added == {"b": CLUSTER_S}


def test_nodes_trigger_nothing_of_their_own_before_everything_is_listed(setup: Setup) -> None:
    setup.synced = False
    setup.triggers.on_change(ChangeImpact(node="node-b"))
    assert setup.queue.added == {}


@pytest.mark.parametrize("lacking", [True, False])
def test_freed_gpus_trigger_only_services_that_lack_some(setup: Setup, lacking: bool) -> None:
    setup.triggers.set_lacks_gpus("b", True)
    setup.triggers.set_lacks_gpus("b", lacking)
    setup.triggers.on_change(ChangeImpact(freed_gpus=True))
    assert setup.queue.added == ({"b": CLUSTER_S} if lacking else {})


def test_a_deleted_service_is_triggered_once_more_for_the_pods_that_it_leaves(
    setup: Setup,
) -> None:
    setup.triggers.set_lacks_gpus("a", True)
    setup.store.observe_deletion(Kind.SERVICES, "a")
    setup.triggers.on_deleted_service("a")
    assert setup.queue.removed == ["a"]
    assert setup.queue.added == {"a": SERVICE_S}
    setup.queue.added.clear()
    setup.triggers.on_change(ChangeImpact(freed_gpus=True))
    assert setup.queue.added == {}  # it no longer lacks GPUs


def test_a_deleted_service_without_pods_is_not_triggered(setup: Setup) -> None:
    setup.store.observe_deletion(Kind.PODS, "uid-a-0")
    setup.store.observe_deletion(Kind.SERVICES, "a")
    setup.triggers.on_deleted_service("a")
    assert setup.queue.added == {}


def test_demand_triggers_the_service_of_that_name(setup: Setup) -> None:
    setup.triggers.on_demand(ServiceKey("acme", "b"))
    setup.triggers.on_demand(ServiceKey("acme", "unknown"))
    assert setup.queue.added == {"b": SERVICE_S}


def test_a_state_triggers_the_service_of_its_pod(setup: Setup) -> None:
    setup.triggers.on_state("uid-a-0")
    setup.triggers.on_state("uid-unknown")
    assert setup.queue.added == {"a": SERVICE_S}


@pytest.mark.parametrize("lacking", [True, False])
@pytest.mark.parametrize("reserve", [True, False])
def test_the_state_of_a_shared_warm_pod_triggers_the_services_that_may_adopt_it(
    make: Make, lacking: bool, reserve: bool
) -> None:
    setup = Setup(make)
    setup.observe_service("owner", reserve=1)
    setup.observe_service("claimant")
    labels = {"avatar.musetalk.io/reserve": "true"} if reserve else {}
    setup.observe_pod("owner", "n", **labels)
    setup.observe_service("claimant", reserve=0)
    setup.triggers.set_lacks_gpus("claimant", lacking)
    setup.triggers.on_state("uid-owner-0")
    expected = {"owner": SERVICE_S} | ({"claimant": SERVICE_S} if lacking and reserve else {})
    assert setup.queue.added == expected


def test_a_pod_that_becomes_stale_or_fresh_triggers_its_service_once(setup: Setup) -> None:
    setup.triggers.on_stale(frozenset({"uid-a-0"}))
    assert setup.queue.added == {"a": SERVICE_S}
    setup.queue.added.clear()
    setup.triggers.on_stale(frozenset({"uid-a-0"}))
    assert setup.queue.added == {}
    setup.triggers.on_stale(frozenset())
    assert setup.queue.added == {"a": SERVICE_S}


def test_a_stale_gateway_triggers_all_services(make: Make) -> None:
    setup = Setup(make)
    setup.store = Store((), "system")
    worker: Any = setup.queue
    setup.triggers = Triggers(setup.store, worker, 300.0, lambda: True)
    setup.observe_service("a")
    setup.observe_service("b")
    body = make.pod_body("gw", metadata={"namespace": "system"})
    body["metadata"]["labels"] = {
        "app.kubernetes.io/component": "gateway",
        "app.kubernetes.io/name": "avatar-operator",
    }
    setup.store.observe(Kind.PODS, body)
    assert setup.store.gateways.uids() == ("uid-gw",)
    setup.triggers.on_stale(frozenset({"uid-gw", "uid-unknown"}))
    assert set(setup.queue.added) == {"a", "b"}


def test_a_lost_pdb_is_applied_again_after_a_pause(setup: Setup) -> None:
    setup.triggers.on_pdb_lost("a")
    assert setup.queue.added == {"a": PDB_S}


def test_a_new_term_triggers_all_services_together(setup: Setup) -> None:
    setup.triggers.trigger_new_term()
    assert setup.queue.added == {"a": CLUSTER_S, "b": CLUSTER_S}


def test_many_services_are_triggered_within_half_a_resync(make: Make) -> None:
    store, queue = Store(()), RecordingQueue()
    worker: Any = queue
    for number in range(10):
        body = make.service_body(replicas=1)
        body["metadata"].update(name=f"s{number}", uid=f"s{number}")
        store.observe(Kind.SERVICES, body)
    Triggers(store, worker, 0.01, lambda: True).trigger_all()
    assert max(queue.added.values()) < CLUSTER_S + 0.01 / 2
    assert sorted(queue.added) == [f"s{number}" for number in range(10)]


def test_only_other_services_that_exist_and_lack_gpus_wait(setup: Setup) -> None:
    setup.triggers.set_waits("a", waits=True)
    assert (setup.triggers.others_wait("a"), setup.triggers.others_wait("b")) == (False, True)
    setup.triggers.on_deleted_service("a")
    assert not setup.triggers.others_wait("b")
    setup.triggers.set_waits("b", waits=True)
    setup.triggers.set_waits("b", waits=False)
    assert not setup.triggers.others_wait("a")


def test_changes_that_arrive_together_cause_one_reconcile_soon() -> None:
    assert (SERVICE_S, PODS_S, CLUSTER_S) == (0.02, 0.15, 0.25)
    assert (PDB_S, triggers.SPREAD_S) == (1.0, 0.005)
