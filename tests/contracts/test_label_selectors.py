from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.fields import Fault, Fields
from avatar_contracts.label_selectors import Selector, parse_selector

if TYPE_CHECKING:
    from collections.abc import Mapping

LABELS = {"team": "acme", "stage": "prod"}


def parse(selector: Any) -> tuple[Selector | None, list[Fault]]:
    faults: list[Fault] = []
    return parse_selector(Fields({"selector": selector}, "spec", faults), "selector"), faults


def requirement(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        pytest.param({}, True, id="empty"),
        pytest.param({"matchLabels": {"team": "acme"}}, True, id="label"),
        pytest.param({"matchLabels": {"team": "other"}}, False, id="other-value"),
        pytest.param({"matchLabels": {"team": "acme", "x": "y"}}, False, id="all-must-match"),
        pytest.param(requirement("team", "In", "a", "acme"), True, id="in"),
        pytest.param(requirement("x", "In", "a"), False, id="in-missing"),
        pytest.param(requirement("team", "NotIn", "acme"), False, id="not-in"),
        pytest.param(requirement("x", "NotIn", "acme"), True, id="not-in-missing"),
        pytest.param(requirement("team", "Exists"), True, id="exists"),
        pytest.param(requirement("x", "Exists"), False, id="exists-missing"),
        pytest.param(requirement("team", "DoesNotExist"), False, id="does-not-exist"),
        pytest.param(requirement("x", "DoesNotExist"), True, id="does-not-exist-missing"),
    ],
)
def test_a_selector_matches_as_in_kubernetes(selector: Mapping[str, Any], matches: bool) -> None:
    parsed, faults = parse(selector)
    assert parsed is not None
    assert (parsed.matches(LABELS), faults) == (matches, [])


def test_a_missing_selector_is_none() -> None:
    assert parse(None) == (None, [])


@pytest.mark.parametrize(
    "selector",
    [
        pytest.param("team=acme", id="text"),
        pytest.param({"matchLabels": {"team": 1}}, id="number"),
        pytest.param(requirement("team", "Like", "a"), id="operator"),
        pytest.param(requirement("", "Exists"), id="no-key"),
        pytest.param({"matchExpressions": [{"key": "team"}]}, id="no-operator"),
        pytest.param(requirement("team", "In"), id="in-without-values"),
        pytest.param(requirement("team", "Exists", "a"), id="exists-with-values"),
    ],
)
def test_a_wrong_selector_is_a_fault(selector: Any) -> None:
    assert parse(selector)[1]
