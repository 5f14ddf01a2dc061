"""How the GPUs of each cell are counted, and who holds them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.operator.conftest import Make

from avatar_operator.core.gpus.inventory import NodeClassCache
from avatar_operator.core.planning.sharing.gpu_cells import Cells, Demand, Observation, is_removable
from avatar_operator.core.resources.placement import Placement
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

MAKE = Make()
SMALL, LARGE = "rtx-4090", "a100-80gb"
PRODUCTS = {
    SMALL: ("NVIDIA-GeForce-RTX-4090", "24564"),
    LARGE: ("NVIDIA-A100-SXM4-80GB", "81920"),
}


def node(name: str, gpus: int, gpu_class: str = SMALL, zone: str = "a") -> Node:
    product, memory = PRODUCTS[gpu_class]
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory, "zone": zone}
    return MAKE.node(name, labels=labels, gpus=gpus)


def demand(name: str, *classes: str, zone: str = "") -> Demand:
    placement = Placement(node_selector=(("zone", zone),) if zone else ())
    return Demand(ServiceKey("acme", name), 9, 0, 1, 1, None, "", classes or (SMALL,), placement)


def count(
    nodes: list[Node],
    pods: dict[str, list[RuntimePod]],
    demands: dict[str, Demand],
    states: dict[str, PodState] | None = None,
) -> Cells:
    """Count the cells; the nodes also have the uses of the bound pods."""
    uses = tuple(
        PodUse.of(pod.node, pod.gpu_class, {"nvidia.com/gpu": 1})
        for each in pods.values()
        for pod in each
        if pod.node
    )
    observed = Observation(
        tuple(nodes), MAKE.shipped(), uses, NodeClassCache(), lambda uid: pods.get(uid, []),
        lambda uids: {uid: (states or {})[uid] for uid in uids if uid in (states or {})},
    )  # fmt: skip
    return Cells(demands, {SMALL, LARGE}, observed)


@pytest.mark.parametrize(("age_s", "removable"), [(0.0, True), (1.99, True), (2.0, False)])
def test_a_pod_without_sessions_is_removable_while_its_state_is_fresh(
    age_s: float, removable: bool
) -> None:
    pod = MAKE.pod()
    assert is_removable(pod, {pod.uid: MAKE.state(0, age_s=age_s)}) is removable
    assert not is_removable(pod, {pod.uid: MAKE.state(1, age_s=0.0)})
    assert not is_removable(pod, {})


def test_a_pod_that_does_not_run_is_removable_whatever_its_state_says() -> None:
    pod = MAKE.pod(running=False)
    assert is_removable(pod, {})
    assert is_removable(pod, {pod.uid: MAKE.state(1)})


def test_a_service_lacks_gpus_if_it_wants_more_than_it_has() -> None:
    one = demand("one")
    assert one.lacks
    assert not one.without_more().lacks
    assert one.without_more().wanted == 0


def test_gpus_that_are_equal_for_all_services_are_one_cell() -> None:
    demands = {
        "s1": demand("any", SMALL, LARGE),
        "s2": demand("picky", LARGE, SMALL, zone="b"),
    }
    nodes = [node("n1", 2), node("n2", 3), node("n3", 4, zone="b"), node("n4", 5, LARGE, zone="b")]
    cells = count(nodes, {}, demands)
    assert cells.classes == [LARGE, SMALL, SMALL]
    assert cells.free == cells.capacity == [5, 5, 4]
    assert cells.coming == [0, 0, 0]
    assert cells.parts == {("n1", SMALL): 1, ("n2", SMALL): 1, ("n3", SMALL): 2, ("n4", LARGE): 0}
    assert cells.accepted == {"s1": (1, 2, 0), "s2": (0, 2)}
    assert cells.holders == ({}, {}, {})


def test_each_pod_counts_once_by_what_it_does() -> None:
    pods = [
        MAKE.pod("busy"),
        MAKE.pod("empty"),
        MAKE.pod("starting", running=False),
        MAKE.pod("leaving", terminating=True),
        MAKE.pod("emptied", terminating=True),
        MAKE.pod("unreadable", terminating=True),
    ]
    states = {
        "uid-busy": MAKE.state(1),
        "uid-empty": MAKE.state(0),
        "uid-leaving": MAKE.state(2),
        "uid-emptied": MAKE.state(0),
    }
    cells = count([node("n1", 8)], {"s1": pods}, {"s1": demand("one")}, states)
    assert cells.free == [2]
    assert cells.held == {"s1": Counter({0: 3})}
    assert cells.locked == {"s1": Counter({0: 1})}
    assert cells.coming == [1]
    assert cells.capacity == [2 + 3 + 1]
    assert cells.holders == ({"acme": Counter({"one": 6})},)
    assert cells.limit("s1", 2) == 2
    assert cells.limit("s1", 9) == 3


def test_the_gpu_of_an_empty_pod_that_was_deleted_counts_until_it_is_free() -> None:
    """Its process reports nothing any more, and the object lasts some seconds longer."""
    pods = [MAKE.pod(name, terminating=True) for name in ("emptied", "busy", "unknown")]
    states = {"uid-emptied": MAKE.state(0, age_s=30.0), "uid-busy": MAKE.state(1, age_s=30.0)}
    cells = count([node("n1", 3)], {"s1": pods}, {"s1": demand("one")}, states)
    assert (cells.free, cells.coming, cells.capacity) == ([0], [1], [1])


def test_ended_pods_and_pods_of_other_classes_hold_nothing() -> None:
    pods = [
        MAKE.pod("ended", phase="Failed"),
        MAKE.pod("elsewhere", node="n9"),
        MAKE.pod("after"),
    ]
    cells = count([node("n1", 4)], {"s1": pods}, {"s1": demand("one")})
    assert cells.held == {"s1": Counter({0: 1})}
    assert cells.holders == ({"acme": Counter({"one": 1})},)


def test_pods_without_a_node_hold_free_gpus_of_their_class_only() -> None:
    pods = [
        MAKE.pod("other", node="", gpu_class=LARGE, running=False),
        MAKE.pod("p1", node="", running=False),
        MAKE.pod("p2", node="", running=False),
        MAKE.pod("p3", node="", running=False),
        MAKE.pod("rejected", node="", running=False, rejected_at=1.0),
        MAKE.pod("deleted", node="", running=False, terminating=True),
    ]
    both = {"s1": demand("one"), "s2": demand("two", zone="b")}
    cells = count([node("n1", 1), node("n2", 1, zone="b")], {"s1": pods}, both)
    assert cells.accepted["s1"] == (0, 1)
    assert cells.free == [0, 0]
    assert cells.capacity == [1, 1]
    assert cells.held["s1"] == Counter({0: 1, 1: 1})
    assert cells.locked["s1"] == Counter()
    assert cells.holders == ({"acme": Counter({"one": 1})}, {"acme": Counter({"one": 1})})
    enough = count([node("n1", 6)], {"s1": pods}, {"s1": demand("one")})
    assert (enough.free, enough.held["s1"]) == ([3], Counter({0: 3}))


def test_a_node_with_more_uses_than_gpus_has_none_free() -> None:
    pods = [MAKE.pod(f"p{number}") for number in range(3)]
    cells = count([node("n1", 2)], {"s1": pods}, {"s1": demand("one")})
    assert cells.free == [0]
    assert cells.capacity == [3]
