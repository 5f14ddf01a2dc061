from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.state import HIGHEST_COUNT, STALE_S, Load, StateFault, parse_load
from avatar_gateway.core import routing
from avatar_operator.core.autoscaling import capacity

LINE = {"capacity": 5, "sessions": 1, "free": 4, "draining": False, "ready": True}
COUNTS = ("capacity", "sessions", "free")


def test_line_becomes_a_load() -> None:
    assert parse_load({**LINE, "pod": "p", "other": []}) == Load(5, 1, 4, False, True)


def test_operator_and_gateway_believe_a_state_equally_long() -> None:
    assert STALE_S == 3.5
    assert capacity.STALE_S is STALE_S
    assert routing.STALE_S is STALE_S


@pytest.mark.parametrize("key", LINE)
def test_each_key_is_required(key: str) -> None:
    line = {name: value for name, value in LINE.items() if name != key}
    (fault,) = faults(line)
    assert (fault.key, fault.value) == (key, None)
    assert faults({**line, key: None}) == (fault,)


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("value", [-1, HIGHEST_COUNT + 1, True, 1.0, "1", []])
def test_count_is_bounded(key: str, value: object) -> None:
    limit = "a whole number from 0 to 1000000"
    assert faults({**LINE, key: value}) == (StateFault(key, value, limit),)


@pytest.mark.parametrize("key", ["draining", "ready"])
@pytest.mark.parametrize("value", [0, 1, "true", {}])
def test_flag_is_a_boolean(key: str, value: object) -> None:
    assert faults({**LINE, key: value}) == (StateFault(key, value, "true or false"),)


def test_all_faults_are_named() -> None:
    assert [fault.key for fault in faults({})] == list(LINE)


ANYTHING: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([])
)


@given(st.dictionaries(st.sampled_from(sorted(LINE)), ANYTHING))
def test_any_line_is_a_load_or_faults(line: dict[str, Any]) -> None:
    found = parse_load(line)
    if isinstance(found, Load):
        assert line == {key: getattr(found, key) for key in LINE}
        assert all(0 <= line[key] <= HIGHEST_COUNT for key in COUNTS)
    else:
        assert found


def faults(line: dict[str, Any]) -> tuple[StateFault, ...]:
    found = parse_load(line)
    assert not isinstance(found, Load)
    return found
