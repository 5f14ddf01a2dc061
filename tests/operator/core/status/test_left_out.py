"""How the nodes that a service cannot use are named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from avatar_operator.core.status.left_out import describe

WANTED = {"rtx-4090"}


def described(*nodes: tuple[str, str], **classes: str) -> list[str]:
    inventory: Any = SimpleNamespace(left_out=nodes, classes_left_out=classes)
    return describe(inventory, WANTED)


def test_nothing_is_left_out() -> None:
    assert described() == []


@pytest.mark.parametrize(
    ("count", "phrase"),
    [
        (1, "node n0 excluded: tainted"),
        (2, "nodes n0 and n1 excluded: tainted"),
        (3, "nodes n0, n1 and n2 excluded: tainted"),
        (4, "nodes n0, n1, n2 and 1 more excluded: tainted"),
        (6, "nodes n0, n1, n2 and 3 more excluded: tainted"),
    ],
)
def test_three_nodes_of_a_cause_are_named(count: int, phrase: str) -> None:
    assert described(*((f"n{number}", "tainted") for number in range(count))) == [phrase]


def test_nodes_of_a_wanted_class_come_first_and_of_another_one_last() -> None:
    nodes = [("other", "cause 1"), ("unknown", "cause 2"), ("wanted", "cause 3")]
    assert described(*nodes, other="a100-80gb", wanted="rtx-4090") == [
        "node wanted excluded: cause 3",
        "node unknown excluded: cause 2",
        "node other excluded: cause 1",
    ]


def test_causes_of_one_rank_follow_the_names_of_their_first_nodes() -> None:
    assert described(("b", "cause 1"), ("a", "cause 2"), ("c", "cause 1")) == [
        "node a excluded: cause 2",
        "nodes b and c excluded: cause 1",
    ]


def test_nodes_of_one_cause_and_two_ranks_are_two_phrases() -> None:
    found = described(("other", "full"), ("wanted", "full"), other="x", wanted="rtx-4090")
    assert found == ["node wanted excluded: full", "node other excluded: full"]


def test_three_causes_are_named_and_the_nodes_of_the_others_counted() -> None:
    nodes = [(f"n{number}", f"cause {number}") for number in range(4)]
    named = [f"node n{number} excluded: cause {number}" for number in range(3)]
    assert described(*nodes[:3]) == named
    assert described(*nodes) == [*named, "1 more node excluded"]
    assert described(*nodes, ("n5", "cause 3")) == [*named, "2 more nodes excluded"]
