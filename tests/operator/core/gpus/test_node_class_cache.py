"""A cache answers as if every node were classified anew, and classifies only what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.gpus import inventory
from avatar_operator.core.resources.placement import Placement
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from tests.operator.conftest import Make

PRODUCTS = ("NVIDIA-GeForce-RTX-4090", "NVIDIA-A100-SXM4-80GB", "Tesla-K80")
STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.sampled_from(PRODUCTS))),
        st.booleans(),
    ),
    max_size=5,
)


@given(steps=STEPS)
def test_a_kept_cache_changes_nothing(
    make: Make, steps: list[tuple[list[tuple[int, int, str]], bool]]
) -> None:
    cache = inventory.NodeClassCache()
    for described, all_profiles in steps:
        nodes = tuple(
            make.node(
                f"n{name}",
                gpus=gpus,
                labels={"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "24564"},
            )
            for name, gpus, product in {each[0]: each for each in described}.values()
        )
        profiles = make.shipped() if all_profiles else make.shipped()[:2]
        uses = [PodUse(node.name, 1, "") for node in nodes]
        kept = inventory.count_free(nodes, uses, profiles, Placement(), cache)
        assert kept == inventory.count_free(nodes, uses, profiles, Placement())


def test_an_unchanged_node_keeps_its_classification(make: Make) -> None:
    cache, profiles = inventory.NodeClassCache(), (make.profile(),)
    first = cache.parts((make.node("n1"), make.node("n2")), profiles)
    second = cache.parts((make.node("n1"), make.node("n2", gpus=5)), profiles)
    assert second[0] is first[0]
    assert (first[1].gpus, second[1].gpus) == (2, 5)


def test_other_profiles_make_everything_new(make: Make) -> None:
    cache, nodes = inventory.NodeClassCache(), (make.node(),)
    (known,) = cache.parts(nodes, (make.profile(),))
    (unknown,) = cache.parts(nodes, ())
    assert (known.gpu_class, unknown.gpu_class) == ("rtx-4090", None)
    assert cache.parts(nodes, (make.profile(),)) == (known,)


POOL = tuple(
    PodUse(node, gpus, gpu_class, others)
    for node in ("n0", "n1", "n2", "gone", "")
    for gpus in (0, 1, 5)
    for gpu_class in ("", "rtx-4090")
    for others in ((), (("nvidia.com/gpu.shared", 2),))
)
"""Uses as the operator keeps them: one that did not change is the same object as before."""

PLACEMENTS = (Placement(), Placement(node_selector=(("pool", "a"),)))


@given(
    steps=st.lists(
        st.tuples(st.lists(st.sampled_from(POOL), max_size=8), st.sampled_from(PLACEMENTS)),
        max_size=8,
    )
)
def test_what_pods_take_is_added_up_as_if_anew(
    make: Make, steps: list[tuple[list[PodUse], Placement]]
) -> None:
    product = {"nvidia.com/gpu.product": PRODUCTS[0], "nvidia.com/gpu.memory": "24564"}
    nodes = tuple(
        make.node(f"n{number}", gpus=4, labels=product | {"pool": "ab"[number % 2]})
        for number in range(3)
    )
    cache, profiles = inventory.NodeClassCache(), (make.profile(),)
    for uses, placement in steps:
        kept = inventory.count_free(nodes, tuple(uses), profiles, placement, cache)
        anew = inventory.count_free(nodes, tuple(uses), profiles, placement)
        assert kept == anew
        assert kept.nodes == anew.nodes


def test_only_so_many_placements_are_remembered(make: Make) -> None:
    cache, nodes, profiles = inventory.NodeClassCache(), (make.node(),), (make.profile(),)
    first = cache.view(nodes, profiles, Placement())
    assert cache.view(nodes, profiles, Placement()) is first
    for number in range(inventory.KEPT_VIEWS):
        cache.view(nodes, profiles, Placement(node_selector=(("pool", str(number)),)))
    assert cache.view(nodes, profiles, Placement()) is not first


def test_nodes_are_found_by_their_names(make: Make) -> None:
    cache, nodes = inventory.NodeClassCache(), (make.node("n1"), make.node("n2"))
    assert cache.named(nodes, {"n2", "n9"}) == (nodes[1],)  # before they were classified
    cache.parts(nodes, ())
    assert cache.named(nodes, {"n2", "n9"}) == (nodes[1],)
