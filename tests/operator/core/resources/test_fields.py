from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avatar_contracts.fields import Fields
from avatar_operator.core.resources.fields import Identity, parse_identity
from avatar_operator.core.resources.service import Objective

if TYPE_CHECKING:
    from avatar_contracts.fields import Fault


def read(value: object) -> tuple[Fields, list[Fault]]:
    faults: list[Fault] = []
    return Fields(value, "spec", faults), faults


def test_what_is_there_is_read() -> None:
    fields, faults = read(
        {
            "text": "a",
            "number": 3,
            "flag": True,
            "choice": "latency",
            "word": "x",
            "list": ["a", "b"],
            "map": {"k": "v"},
            "objects": [{"a": 1}],
        }
    )
    assert fields.text("text", pattern="^a$") == "a"
    assert fields.integer("number", 0, 1, 5) == 3
    assert fields.optional_integer("number", 1, 5) == 3
    assert fields.flag("flag", False) is True
    assert fields.choice("choice", Objective.BALANCED) is Objective.LATENCY
    assert fields.one_of("word", "y", ("x", "y")) == "x"
    assert fields.texts("list", unique=True) == ("a", "b")
    assert fields.strings("map") == {"k": "v"}
    assert fields.fragment("map") == {"k": "v"}
    assert fields.fragments("objects") == ({"a": 1},)
    assert fields.raw("number") == 3
    assert fields.required("text", "set")
    assert faults == []


def test_what_is_missing_reads_as_its_default() -> None:
    fields, faults = read(None)
    assert fields.text("a", "d") == "d"
    assert fields.integer("a", 7, 1, 5) == 7
    assert fields.optional_integer("a", 1, 5) is None
    assert fields.flag("a", True) is True
    assert fields.choice("a", Objective.BALANCED) is Objective.BALANCED
    assert fields.one_of("a", "y", ("x", "y")) == "y"
    assert fields.items("a") == ()
    assert fields.child("a").child("b").strings("c") == {}
    assert faults == []


@pytest.mark.parametrize(
    ("value", "read_it", "said"),
    [
        pytest.param(1, lambda f: f.text("a"), "spec.a is 1, must be a string", id="text"),
        pytest.param(
            "b", lambda f: f.text("a", pattern="^a$", limit="a"), 'spec.a is "b"', id="pattern"
        ),
        pytest.param(9, lambda f: f.integer("a", 1, 1, 5), "from 1 to 5", id="too large"),
        pytest.param(True, lambda f: f.integer("a", 1, 1, 5), "is true", id="bool as number"),
        pytest.param("x", lambda f: f.integer("a", 1, 1, 5), "whole number", id="no number"),
        pytest.param("yes", lambda f: f.flag("a", False), "true or false", id="flag"),
        pytest.param(
            "fast",
            lambda f: f.choice("a", Objective.BALANCED),
            "one of latency, balanced, throughput",
            id="choice",
        ),
        pytest.param("z", lambda f: f.one_of("a", "y", ("x", "y")), "one of x, y", id="one of"),
        pytest.param("z", lambda f: f.items("a"), "must be a list", id="list"),
        pytest.param([1], lambda f: f.texts("a"), "spec.a[0] is 1", id="item"),
        pytest.param(
            ["b"], lambda f: f.texts("a", pattern="a", limit="an a"), "an a", id="item pattern"
        ),
        pytest.param(
            ["b", "b"],
            lambda f: f.texts("a", unique=True),
            'spec.a[1]: a must not contain duplicate names: "b"',
            id="named twice",
        ),
        pytest.param({"k": 1}, lambda f: f.strings("a"), "spec.a.k is 1", id="map value"),
        pytest.param(3, lambda f: f.child("a"), "spec.a is 3, must be an object", id="object"),
        pytest.param([3], lambda f: f.fragments("a"), "spec.a[0] is 3", id="object in a list"),
    ],
)
def test_what_is_wrong_is_noted_with_path_value_and_limit(
    value: object, read_it: object, said: str
) -> None:
    fields, faults = read({"a": value})
    assert callable(read_it)
    read_it(fields)
    (fault,) = faults
    assert said in str(fault)


def test_a_missing_field_that_is_required_is_noted() -> None:
    fields, faults = read({})
    assert not fields.required("a", "set")
    assert [str(fault) for fault in faults] == ["spec.a is missing, must be set"]


def test_a_long_value_is_cut() -> None:
    fields, faults = read({"a": "x" * 1000})
    fields.integer("a", 1, 1, 5)
    assert len(str(faults[0])) < 150


def test_an_object_that_was_never_stored_has_an_empty_identity() -> None:
    assert parse_identity({}, []) == Identity("", "default", "", 0, "")
    faults: list[Fault] = []
    found = parse_identity({"metadata": {"generation": 2**63}}, faults)
    assert (found.generation, faults) == (2**63, [])
    for wrong in (-1, 2**63 + 1):
        assert parse_identity({"metadata": {"generation": wrong}}, faults).generation == 0
    assert [fault.path for fault in faults] == ["metadata.generation"] * 2
