"""Counts of GPUs in nodes and pods."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_operator.core.resources.node import parse_node, read_count
from avatar_operator.core.resources.pod import parse_use

COUNTS: list[tuple[object, int]] = [
    ("2", 2),
    (2, 2),
    ("+2", 2),
    ("1k", 1000),
    ("2e0", 2),
    ("2E0", 2),
    ("20e-1", 2),
    ("2000m", 2),
    ("1500m", 2),
    ("1Ki", 1024),
    ("2.0", 2),
]


@pytest.mark.parametrize(("quantity", "count"), COUNTS)
def test_a_count_is_read_as_a_quantity(quantity: object, count: int) -> None:
    assert read_count(quantity) == count


@pytest.mark.parametrize("value", ["", "-1", -1, "two", "\u0662", True, None, [], {}])
def test_anything_else_counts_nothing(value: object) -> None:
    assert read_count(value) == 0


def test_the_gpus_of_a_node_and_of_a_pod_are_quantities(make: Any) -> None:
    node = make.node_body()
    node["status"]["allocatable"]["nvidia.com/gpu"] = "1k"
    assert parse_node(node).gpus == 1000
    use = parse_use(make.pod_body(gpus="2e0"))
    assert use is not None
    assert use.gpus == 2
