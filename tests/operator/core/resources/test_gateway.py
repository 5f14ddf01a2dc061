"""Tests of the count of callers over all gateways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.resources import gateway
from avatar_operator.core.resources.gateway import Callers, Tally
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import InvalidResource

KEY = ServiceKey("acme", "concierge")


def body(**changes: Any) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "avatar-operator",
        "app.kubernetes.io/component": "gateway",
    }
    metadata = {"name": "gw-1", "namespace": "system", "labels": labels}
    made: dict[str, Any] = {
        "metadata": metadata,
        "status": {"phase": "Running", "podIP": "10.0.0.9"},
    }
    for part, fields in changes.items():
        made[part] |= fields
    return made


def test_a_gateway_is_known_by_its_labels_and_namespace() -> None:
    assert gateway.parse_pod(body(), "system") == gateway.GatewayPod("gw-1", "10.0.0.9", True)
    assert gateway.parse_pod(body(), "elsewhere") is None
    other = {"labels": {"app.kubernetes.io/component": "gateway"}}
    assert gateway.parse_pod(body(metadata=other), "system") is None


def test_a_gateway_that_goes_is_not_running() -> None:
    gone = gateway.parse_pod(body(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), "system")
    assert gone is not None
    assert not gone.running


def test_a_state_is_read_by_service() -> None:
    reported = {"sessions": 1, "waiting": 2, "arrivals_per_s": 0.5, "arrivals_total": 7}
    document = {"pod": "gw-1", "services": {"acme/concierge": reported}, "sequence": 3}
    assert gateway.parse_demand(document) == {KEY: Callers(waiting=2, arrived=7)}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({}, "services"),
        ({"services": {"a/b": {"waiting": -1}}}, "waiting"),
        ({"services": {"a/b": {"arrivals_total": "many"}}}, "arrivals_total"),
        ({"services": {"a/b": 3}}, "services.a/b"),
    ],
)
def test_a_state_that_breaks_its_contract_is_refused(document: Any, fault: str) -> None:
    with pytest.raises(InvalidResource, match=fault):
        gateway.parse_demand(document)


def said(arrived: int) -> gateway.Demand:
    return {KEY: Callers(waiting=0, arrived=arrived)}


def test_who_came_before_the_first_word_does_not_count() -> None:
    assert Tally().with_report(None, said(500)).arrived == {}


def test_a_service_that_is_new_to_a_known_gateway_counts_from_nothing() -> None:
    assert Tally().with_report({}, said(2)).arrived == {KEY: 2}


def test_a_gateway_that_began_anew_counts_from_nothing() -> None:
    assert Tally().with_report(said(9), said(3)).arrived == {KEY: 3}


@given(st.lists(st.integers(0, 50), min_size=1))
def test_the_tally_never_falls(counts: list[int]) -> None:
    tally, before = Tally(), None
    for count in counts:
        after = said(count)
        reported = tally.with_report(before, after)
        assert reported.arrived.get(KEY, 0) >= tally.arrived.get(KEY, 0)
        tally, before = reported, after
