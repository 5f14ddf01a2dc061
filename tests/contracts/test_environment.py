from __future__ import annotations

import pickle
from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.environment import Address, Environment, Fault, InvalidSettings


def test_all_faults_are_collected() -> None:
    read = Environment({"PORT": "a:b", "LEVEL": "loud", "COUNT": "0"})
    assert read.address("PORT", Address("h", 1)) == Address("h", 1)
    assert read.choice("LEVEL", "low", ("low", "high")) == "low"
    assert read.integer("COUNT", 4, 1, 9) == 4
    assert read.required("NAME") == ""
    with pytest.raises(InvalidSettings) as caught:
        read.check(InvalidSettings)
    assert str(caught.value) == (
        "PORT is 'a:b', must be HOST:PORT, for example h:1; "
        "LEVEL is 'loud', must be one of low, high; "
        "COUNT is '0', must be a whole number from 1 to 9; "
        "NAME is not set, must be set"
    )
    assert [fault.variable for fault in caught.value.faults] == ["PORT", "LEVEL", "COUNT", "NAME"]
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults


def test_nothing_is_raised_without_a_fault() -> None:
    read = Environment({"A": " x ", "B": " "})
    assert (read.text("A", "d"), read.text("B", "d"), read.required("A")) == ("x", "d", "x")
    read.check(InvalidSettings)


def test_arguments_that_are_given_replace_variables() -> None:
    read = Environment({"A": "1", "B": "2"}, {"A": "3", "B": None, "C": "4"})
    assert [read.text(name, "") for name in "ABC"] == ["3", "2", "4"]


def test_long_values_are_cut() -> None:
    assert str(Fault("A", "x" * 1000, "short")) == f"A is {'x' * 64!r}, must be short"


def test_secret_is_exact_and_never_shown() -> None:
    read = Environment({"KEY": " secret \n", "SHORT": "hush"})
    assert read.secret("KEY") == " secret \n"
    assert read.secret("NONE") == ""
    assert read.faults == []
    read.secret("SHORT", 16)
    read.secret("NONE", 16)
    assert [str(fault) for fault in read.faults] == [
        "SHORT is '***', must be 16 characters or more",
        "NONE is not set, must be 16 characters or more",
    ]


def test_names_and_booleans() -> None:
    read = Environment({"NAMES": "a, b,,", "YES": "True", "NO": "FALSE", "ODD": "1"})
    assert (read.names("NAMES"), read.names("NONE")) == (("a", "b"), ())
    assert (read.boolean("YES"), read.boolean("NO"), read.boolean("NONE")) == (True, False, False)
    assert read.boolean("NONE", default=True)
    assert read.boolean("ODD") is False
    assert read.faults == [Fault("ODD", "1", "one of false, true")]


def test_choices_with_capitals_are_exact() -> None:
    read = Environment({"A": "Always", "B": "always"})
    choices = ("IfNotPresent", "Always")
    assert read.choice("A", "IfNotPresent", choices) == "Always"
    assert read.choice("B", "IfNotPresent", choices) == "IfNotPresent"
    assert [fault.variable for fault in read.faults] == ["B"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:8080", Address("0.0.0.0", 8080)),
        ("[::1]:0", Address("::1", 0)),
        ("h:65535", Address("h", 65535)),
    ],
)
def test_address_is_read_and_written(text: str, expected: Address) -> None:
    read = Environment({"A": text})
    assert read.address("A", Address("x", 1)) == expected
    assert str(expected) == text
    assert read.faults == []


@pytest.mark.parametrize("text", ["8080", ":8080", "h:", "h:65536", "h:-1", "h:x", "h:\u0663"])
def test_address_without_host_or_port_is_a_fault(text: str) -> None:
    read = Environment({"A": text})
    assert read.address("A", Address("x", 1)) == Address("x", 1)
    assert [fault.value for fault in read.faults] == [text]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("::", False),
        ("127.example.org", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert Address(host, 1).is_loopback == expected


@given(text=st.text(max_size=8) | st.integers().map(str) | st.floats().map(str))
def test_a_number_is_within_its_limits_or_a_fault(text: str) -> None:
    read = Environment({"N": text})
    found = (read.integer("N", 5, 1, 9), read.number("N", 5.5, 1, 9), read.number("N", 7.5, 1))
    assert 1 <= found[0] <= 9
    assert 1 <= found[1] <= 9
    assert found[2] >= 1
    assert isfinite(found[2])
    for fault in read.faults:
        assert fault.variable == "N"
        assert fault.value == text.strip()
    if not text.strip():
        assert read.faults == []


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_a_number_is_finite(text: str) -> None:
    read = Environment({"N": text})
    assert read.number("N", 3.0, 0, inf) == 3.0
    assert read.faults == [Fault("N", text, "a number, 0 or more")]
