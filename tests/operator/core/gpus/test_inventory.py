from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.gpus import inventory, node_classes
from avatar_operator.core.resources.node import Taint
from avatar_operator.core.resources.placement import Placement, Toleration
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.gpu_profile import GPUProfile

PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"


def labels(product: str, memory: str | None = None, **more: str) -> dict[str, str]:
    found = {PRODUCT: product} if memory is None else {PRODUCT: product, MEMORY: memory}
    return found | {f"nvidia.com/gpu.{key.replace('_', '-')}": more[key] for key in more}


def test_free_is_what_all_pods_of_everyone_leave(make: Make) -> None:
    uses = [PodUse("n1", 1, ""), PodUse("n2", 1, "rtx-4090"), PodUse("elsewhere", 9, "")]
    nodes = [make.node("n1"), make.node("n2")]
    taken = inventory.count_free(nodes, uses, (make.profile(),), Placement())
    assert (taken.stocks["rtx-4090"].total, taken.stocks["rtx-4090"].free) == (4, 2)


def test_pods_that_are_not_bound_yet_count_against_their_class(make: Make) -> None:
    uses = [PodUse("", 1, "rtx-4090"), PodUse("", 5, "")]
    taken = inventory.count_free([make.node()], uses, (make.profile(),), Placement())
    assert taken.stocks["rtx-4090"].free == 1


def test_a_dying_device_does_not_borrow_from_other_nodes(make: Make) -> None:
    uses = [PodUse("n1", 2, "")]
    nodes = [make.node("n1", gpus=1), make.node("n2", gpus=1)]
    taken = inventory.count_free(nodes, uses, (make.profile(),), Placement())
    assert taken.stocks["rtx-4090"].free == 1


@pytest.mark.parametrize(
    ("changes", "placement", "said"),
    [
        pytest.param({"ready": False}, Placement(), "not ready", id="not ready"),
        pytest.param({"unschedulable": True}, Placement(), "cordoned", id="cordoned"),
        pytest.param(
            {"taints": (Taint("team", "a", "NoSchedule"),)},
            Placement(),
            "taint team:NoSchedule is not tolerated",
            id="taint",
        ),
        pytest.param(
            {}, Placement(node_selector=(("pool", "x"),)), "label pool is not 'x'", id="selector"
        ),
    ],
)
def test_nodes_that_pods_cannot_use_are_left_out(
    make: Make, changes: dict[str, Any], placement: Placement, said: str
) -> None:
    taken = inventory.count_free([make.node(**changes)], [], (make.profile(),), placement)
    assert taken.stocks["rtx-4090"].total == 0
    assert [node for node, _ in taken.left_out] == ["n1"]
    assert said in taken.left_out[0][1]


def test_the_taint_of_gpu_pools_is_tolerated(make: Make) -> None:
    taints = (Taint("nvidia.com/gpu", "true", "NoSchedule"), Taint("x", "", "PreferNoSchedule"))
    taken = inventory.count_free([make.node(taints=taints)], [], (make.profile(),), Placement())
    assert taken.stocks["rtx-4090"].free == 2


def test_a_node_with_the_labels_asked_for_is_used(make: Make) -> None:
    node = make.node(labels=labels("NVIDIA-GeForce-RTX-4090", "24564") | {"pool": "x"})
    placement = Placement(node_selector=(("pool", "x"),))
    assert (
        inventory.count_free([node], [], (make.profile(),), placement).stocks["rtx-4090"].free == 2
    )


def test_nodes_without_gpus_are_not_mentioned(make: Make) -> None:
    taken = inventory.count_free([make.node(labels={}, gpus=0)], [], (make.profile(),), Placement())
    assert taken.left_out == ()
    assert taken.nodes == ()


def test_a_node_whose_device_plugin_is_not_there_yet_has_no_gpus(make: Make) -> None:
    taken = inventory.count_free([make.node(gpus=0)], [], (make.profile(),), Placement())
    assert [(row.node, row.gpu_class, row.total) for row in taken.nodes] == [("n1", "rtx-4090", 0)]


def test_a_class_is_as_large_as_its_smallest_gpu(make: Make) -> None:
    small = make.node("n2", labels=labels("NVIDIA-GeForce-RTX-4090", "23028"))
    taken = inventory.count_free([make.node("n1"), small], [], (make.profile(),), Placement())
    stock = taken.stocks["rtx-4090"]
    assert stock.memory_mib == 23028
    assert len(stock.selectors) == 2


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        pytest.param(Toleration("k", "Equal", "v"), True, id="equal"),
        pytest.param(Toleration("k", "Equal", "w"), False, id="other value"),
        pytest.param(Toleration("k", "Exists"), True, id="exists"),
        pytest.param(Toleration("j", "Exists"), False, id="other key"),
        pytest.param(Toleration("", "Exists"), True, id="everything"),
        pytest.param(Toleration("k", "Exists", "", "NoExecute"), False, id="other effect"),
        pytest.param(Toleration("k", "Exists", "", "NoSchedule"), True, id="this effect"),
    ],
)
def test_tolerations_match_as_the_scheduler_says(toleration: Toleration, expected: bool) -> None:
    taint = Taint("k", "v", "NoSchedule")
    assert inventory.tolerates([toleration], taint) is expected


@given(
    st.lists(st.integers(0, 8), max_size=4),
    st.lists(st.tuples(st.sampled_from(["n0", "n1", "n2", ""]), st.integers(1, 9)), max_size=6),
)
def test_free_lies_between_nothing_and_everything(
    make: Make, gpus: list[int], used: list[tuple[str, int]]
) -> None:
    nodes = [make.node(f"n{index}", gpus=count) for index, count in enumerate(gpus)]
    uses = [PodUse(node, count, "rtx-4090") for node, count in used]
    stock = inventory.count_free(nodes, uses, (make.profile(),), Placement()).stocks["rtx-4090"]
    assert 0 <= stock.free <= stock.total == sum(gpus)
    assert stock.free >= stock.total - sum(count for _, count in used)


_WORDS = st.text(alphabet="NVIDIA-GeForce RTX4090SHARED-MIG1g.0b*?[", max_size=40)


@given(st.dictionaries(st.sampled_from([PRODUCT, MEMORY, "nvidia.com/gpu.replicas"]), _WORDS))
def test_no_label_breaks_the_inventory(make: Make, found: dict[str, str]) -> None:
    (result,) = node_classes.classify(make.node(labels=found), make.shipped())
    assert (result.gpu_class is None) == bool(result.reason)
    assert result.gpu_class is None or result.memory_mib > 0


def test_a_class_without_nodes_has_the_memory_that_its_profile_promises(make: Make) -> None:
    profile: GPUProfile = make.profile()
    stock = inventory.count_free([], [], (profile,), Placement()).stocks["rtx-4090"]
    assert (stock.total, stock.free, stock.memory_mib) == (0, 0, profile.memory_min_mib)


def test_the_rows_show_what_all_pods_of_a_node_leave(make: Make) -> None:
    uses = [PodUse("n1", 1, ""), PodUse("n1", 2, "rtx-4090"), PodUse("n2", 9, "")]
    nodes = [make.node("n1", gpus=4), make.node("n2", gpus=4)]
    found = inventory.count_free(nodes, uses, (make.profile(),), Placement())
    assert [(row.node, row.total, row.free) for row in found.nodes] == [
        ("n1", 4, 1),
        ("n2", 4, 0),
    ]
