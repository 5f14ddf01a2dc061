from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.fields import Fields
from avatar_operator.core.resources.quantities import (
    PARTS,
    complete,
    parse_resources,
    read_quantity,
)

if TYPE_CHECKING:
    from avatar_contracts.fields import Fault


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
        ("+2", "2"),
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


_STEPS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


@pytest.mark.parametrize(("suffix", "exponent"), _STEPS.items())
def test_each_decimal_suffix_has_its_power_of_ten(suffix: str, exponent: int) -> None:
    assert read_quantity(f"3{suffix}") == 3 * Decimal(10) ** exponent


@pytest.mark.parametrize(("suffix", "power"), list(zip("KMGTPE", range(1, 7), strict=True)))
def test_each_binary_suffix_has_its_power_of_1024(suffix: str, power: int) -> None:
    assert read_quantity(f"3{suffix}i") == 3 * Decimal(1024) ** power


def parse(**parts: Any) -> tuple[object, list[str]]:
    faults: list[Fault] = []
    found = parse_resources(Fields(parts, "resources", faults))
    return found, list(map(str, faults))


def test_a_request_may_equal_its_limit_and_may_stand_alone() -> None:
    given = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": 0.5, "disk": 1}}
    assert parse(**given) == (given, [])
    assert parse(limits={"cpu": 1}) == ({"limits": {"cpu": 1}}, [])
    assert parse() == ({}, [])


def test_each_wrong_quantity_is_named_with_its_limit() -> None:
    _, faults = parse(
        requests={"cpu": "501m", "memory": "much", "nvidia.com/gpu": 1}, limits={"cpu": "500m"}
    )
    assert faults == [
        'resources.requests.memory is "much", must be a quantity that is not negative, '
        "for example 500m or 4Gi",
        "resources.requests.nvidia.com/gpu must not be set, because the operator requests the GPU",
        'resources.requests.cpu is "501m", must be no more than the limit, 500m',
    ]


def test_a_limit_of_zero_is_a_limit() -> None:
    _, faults = parse(requests={"cpu": "1m"}, limits={"cpu": 0})
    assert faults == ['resources.requests.cpu is "1m", must be no more than the limit, 0']
    assert parse(requests={"cpu": 0}, limits={"cpu": 0})[1] == []


def test_each_resource_comes_from_the_first_layer_that_has_it() -> None:
    assert complete({"requests": {"cpu": 1}}, {"limits": {"cpu": 2, "memory": 3}}, {}) == {
        "requests": {"cpu": 1},
        "limits": {"memory": 3},
    }
    assert complete() == {"requests": {}, "limits": {}}
