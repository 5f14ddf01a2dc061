from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.resources.quantities import PARTS, complete, read_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        (2, "2"),
        (0.5, "0.5"),
        ("1.5Gi", str(3 * 2**29)),
        ("1k", "1000"),
        ("1e3", "1000"),
        ("1E-2", "0.01"),
        ("2E", str(2 * 10**18)),
        ("1n", "0.000000001"),
        (".5", "0.5"),
    ],
)
def test_quantities_are_read_as_kubernetes_does(text: object, value: str) -> None:
    assert read_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "-1", "two", "1Gb", "1 Gi", "1e999", True, None, [], "1Gi\n"])
def test_anything_else_is_not_a_quantity(text: object) -> None:
    assert read_quantity(text) is None


_LAYERS = st.dictionaries(
    st.sampled_from(["cpu", "memory"]),
    st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)).filter(
        lambda pair: None in pair or (pair[0] or 0) <= (pair[1] or 0)
    ),
)


@given(st.lists(_LAYERS, max_size=4))
def test_no_request_exceeds_a_limit_and_the_first_layer_wins(
    layers: list[dict[str, tuple[int | None, int | None]]],
) -> None:
    resources = [
        {
            part: {name: pair[at] for name, pair in layer.items() if pair[at] is not None}
            for at, part in enumerate(PARTS)
        }
        for layer in layers
    ]
    result = complete(*resources)
    for name in ("cpu", "memory"):
        request, limit = (result[part].get(name) for part in PARTS)
        first = next((layer[name] for layer in layers if any_set(layer.get(name))), (None, None))
        assert (request, limit) == first
        assert request is None or limit is None or int(str(request)) <= int(str(limit))


def any_set(pair: tuple[int | None, int | None] | None) -> bool:
    return pair is not None and pair != (None, None)
