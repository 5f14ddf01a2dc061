"""The endpoints of spec.upstream and the NetworkPolicy of the pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.status import conditions, service_status
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Scenarios

    from avatar_operator.core.status.findings import Finding

BRIDGE = {"mode": "bridge", "url": "wss://rt.example/v1/realtime"}
SPEECH = {
    "mode": "speech",
    "speech": {"url": "https://tts.example/v1/audio/speech", "voice": "a"},
    "chat": {"url": "http://vllm.models.svc:8000/v1/chat/completions"},
}
DNS: dict[str, Any] = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


def _find(scenarios: Scenarios, upstream: Any, egress: Any) -> dict[Condition, Finding]:
    scenario = scenarios(replicas=0, upstream=upstream)
    found = conditions.find(scenario.service, scenario.plan(), scenario.states, egress=egress)
    return {finding.condition: finding for finding in found}


@pytest.mark.parametrize(
    ("upstream", "egress"),
    [({"mode": "drive"}, [DNS]), (BRIDGE, None)],
    ids=["no upstream", "no policy"],
)
def test_there_is_nothing_to_say(scenarios: Scenarios, upstream: Any, egress: Any) -> None:
    assert Condition.UPSTREAM_ALLOWED not in _find(scenarios, upstream, egress)


def test_a_policy_that_allows_dns_only_is_told_with_the_setting(scenarios: Scenarios) -> None:
    found = _find(scenarios, SPEECH, [DNS])
    closed = found[Condition.UPSTREAM_ALLOWED]
    assert (closed.status, closed.reason) == (False, Reason.EGRESS_CLOSED)
    assert closed.message == (
        "the NetworkPolicy of the pods allows no connection to tts.example:443, "
        "vllm.models.svc:8000: add their addresses and ports to networkPolicy.runtime.extraEgress "
        "of the chart, unless another NetworkPolicy allows them"
    )
    # Another policy may allow it, so that the service is not called degraded.
    assert found[Condition.DEGRADED].status is False


def test_only_the_endpoints_without_a_rule_are_named(scenarios: Scenarios) -> None:
    rules = [DNS, {"ports": [{"protocol": "TCP", "port": 443}]}]
    message = _find(scenarios, SPEECH, rules)[Condition.UPSTREAM_ALLOWED].message
    assert "vllm.models.svc:8000:" in message
    assert "tts.example" not in message


@pytest.mark.parametrize(
    ("rule", "allows"),
    [
        ({}, True),
        ({"to": [{"podSelector": {}}]}, True),
        ({"ports": [{}]}, True),
        ({"ports": [{"port": 443}]}, True),
        ({"ports": [{"port": "https", "protocol": "TCP"}]}, True),
        ({"ports": [{"port": 400, "endPort": 500}]}, True),
        ({"ports": [{"port": 444, "endPort": 500}]}, False),
        ({"ports": [{"port": 443, "protocol": "UDP"}]}, False),
        ({"ports": [{"port": 80}, {"port": 8443}]}, False),
        ({"ports": ["443"]}, False),
        ({"ports": "443"}, False),
    ],
)
def test_a_rule_allows_ports(scenarios: Scenarios, rule: Any, allows: bool) -> None:
    found = _find(scenarios, BRIDGE, [DNS, rule])[Condition.UPSTREAM_ALLOWED]
    assert found.status is allows
    assert found.reason is (Reason.EGRESS_OPEN if allows else Reason.EGRESS_CLOSED)


def test_a_closed_egress_is_a_warning_once(scenarios: Scenarios) -> None:
    findings = tuple(_find(scenarios, BRIDGE, [DNS]).values())
    (notice,) = [
        each
        for each in service_status.notices((), findings, {})
        if each.reason is Reason.EGRESS_CLOSED
    ]
    assert notice.warning
    previous = {"conditions": service_status.timed_conditions(1, findings, {}, 0.0)}
    again = service_status.notices((), findings, previous)
    assert Reason.EGRESS_CLOSED not in {each.reason for each in again}
