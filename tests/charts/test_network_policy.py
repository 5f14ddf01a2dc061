"""Which connections the NetworkPolicies allow, by their peers and ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.charts.test_environment import environment
from tests.charts.test_rbac import grants

import avatar_operator.settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.slow
Rule = dict[str, Any]
SYSTEM = {"kubernetes.io/metadata.name": "avatars"}
MONITORING = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
ON = {"networkPolicy": {"enabled": True}}
DNS = {("UDP", 53, "everyone"), ("TCP", 53, "everyone")}
API_SERVER = {("TCP", 443, "everyone"), ("TCP", 6443, "everyone")}


def merged(values: Mapping[str, Any], **policy: Any) -> dict[str, Any]:
    return {**values, "networkPolicy": {"enabled": True, **policy}}


def peer_name(peer: Rule) -> str:
    """Return the component that a peer selects, with the namespaces in which it does."""
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    component = labels.get("app.kubernetes.io/component") or labels.get("app.kubernetes.io/name")
    selector = peer.get("namespaceSelector")
    if selector is None:
        return str(component)
    if selector.get("matchLabels") == SYSTEM:
        return f"{component} of the release"
    if peer == MONITORING:
        return "monitoring"
    names = [name for each in selector.get("matchExpressions", []) for name in each["values"]]
    return f"{component} in {','.join(names) or 'all'}"


def allowed(rules: list[Rule], peers: str) -> Iterator[tuple[str, int, str]]:
    for rule in rules:
        assert rule["ports"], "a rule without ports allows every port"
        assert rule.get(peers, [{}]) != [], "an empty list allows everyone, like a missing one"
        for port in rule["ports"]:
            for peer in rule.get(peers, [None]):
                name = "everyone" if peer is None else peer_name(peer)
                yield port["protocol"], port["port"], name


def spec_of(helm: Any, values: dict[str, Any], component: str) -> Rule:
    objects = helm.template(values)
    if component == "runtime":
        rules = avatar_operator.settings.from_env(environment(objects, "operator")).pods
        assert rules.network_rules is not None
        return dict(rules.network_rules)
    (policy,) = [
        item
        for item in objects
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"].endswith(f"-{component}")
    ]
    (deployment,) = [
        item
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith(f"-{component}")
    ]
    selector = policy["spec"].pop("podSelector")
    assert selector == deployment["spec"]["selector"]
    return dict(policy["spec"])


Case = tuple[dict[str, Any], str, set[tuple[str, int, str]], set[tuple[str, int, str]]]
CASES: dict[str, Case] = {
    "operator": (
        ON,
        "operator",
        {("TCP", 8080, "everyone"), ("TCP", 9090, "everyone")},
        DNS | API_SERVER | {("TCP", 9090, "gateway"), ("TCP", 9090, "avatar-runtime in all")},
    ),
    "operator-limited": (
        merged({"operator": {"watchNamespaces": ["acme", "globex"]}}, metricsFrom=[MONITORING]),
        "operator",
        {("TCP", 8080, "everyone"), ("TCP", 9090, "monitoring")},
        DNS
        | API_SERVER
        | {("TCP", 9090, "gateway"), ("TCP", 9090, "avatar-runtime in acme,globex")},
    ),
    "gateway": (
        ON,
        "gateway",
        {("TCP", 8080, "everyone"), ("TCP", 9090, "everyone")},
        DNS
        | API_SERVER
        | {("TCP", 8080, "avatar-runtime in all"), ("TCP", 9090, "avatar-runtime in all")},
    ),
    # The operator reads the state of the gateways, also if only Prometheus may read metrics.
    "gateway-limited": (
        merged({}, metricsFrom=[MONITORING], callersFrom=[MONITORING]),
        "gateway",
        {
            ("TCP", 8080, "test"),
            ("TCP", 8080, "monitoring"),
            ("TCP", 9090, "operator"),
            ("TCP", 9090, "monitoring"),
        },
        DNS
        | API_SERVER
        | {("TCP", 8080, "avatar-runtime in all"), ("TCP", 9090, "avatar-runtime in all")},
    ),
    "runtime": (
        ON,
        "runtime",
        {
            ("TCP", 8080, "gateway of the release"),
            ("TCP", 9090, "gateway of the release"),
            ("TCP", 9090, "operator of the release"),
        },
        DNS,
    ),
    "runtime-open-metrics": (
        merged({"monitoring": {"openMetrics": True}}),
        "runtime",
        {("TCP", 8080, "gateway of the release"), ("TCP", 9090, "everyone")},
        DNS,
    ),
    "runtime-monitored": (
        merged({"monitoring": {"openMetrics": True}}, metricsFrom=[MONITORING]),
        "runtime",
        {
            ("TCP", 8080, "gateway of the release"),
            ("TCP", 9090, "gateway of the release"),
            ("TCP", 9090, "operator of the release"),
            ("TCP", 9090, "monitoring"),
        },
        DNS,
    ),
    "runtime-egress": (
        merged(
            {},
            dns={"ports": [53, 5353], "to": [MONITORING]},
            runtime={"extraEgress": [{"ports": [{"protocol": "TCP", "port": 443}]}]},
        ),
        "runtime",
        {
            ("TCP", 8080, "gateway of the release"),
            ("TCP", 9090, "gateway of the release"),
            ("TCP", 9090, "operator of the release"),
        },
        {
            *((protocol, port, "monitoring") for protocol in ("UDP", "TCP") for port in (53, 5353)),
            ("TCP", 443, "everyone"),
        },
    ),
    # As --reuse-values gives the values of a release from before these values existed.
    "reused": (
        merged({}, dns=None, apiServer=None, operator=None, gateway=None, runtime=None),
        "operator",
        {("TCP", 8080, "everyone"), ("TCP", 9090, "everyone")},
        DNS | API_SERVER | {("TCP", 9090, "gateway"), ("TCP", 9090, "avatar-runtime in all")},
    ),
}


@pytest.mark.parametrize(
    ("values", "component", "ingress", "egress"), CASES.values(), ids=CASES.keys()
)
def test_a_policy_allows_these_connections_only(
    helm: Any, values: dict[str, Any], component: str, ingress: set[Any], egress: set[Any]
) -> None:
    spec = spec_of(helm, values, component)
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert set(allowed(spec["ingress"], "from")) == ingress
    assert set(allowed(spec["egress"], "to")) == egress


def test_the_operator_may_write_policies_only_if_it_creates_some(helm: Any) -> None:
    resource = "networking.k8s.io/networkpolicies"
    without, with_policies = (grants(helm.template(values), "operator") for values in ({}, ON))
    assert with_policies - without == {("*", resource, v) for v in ("get", "create", "patch")}
    assert without <= with_policies


def test_without_policies_the_operator_creates_none(defaults: list[dict[str, Any]]) -> None:
    (policy,) = [item for item in defaults if item["kind"] == "NetworkPolicy"]
    spec = policy["spec"]
    assert (spec["policyTypes"], spec.get("ingress")) == (["Ingress"], None)
    (chosen,) = spec["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == {"crds", "cleanup", "test"}
    settings = avatar_operator.settings.from_env(environment(defaults, "operator"))
    assert settings.pods.network_rules is None


def test_the_pod_of_helm_test_may_connect_to_the_port_that_it_tests(helm: Any) -> None:
    objects = helm.template(merged({}, callersFrom=[MONITORING]))
    (tester,) = (item for item in objects if item["kind"] == "Pod")
    policy = next(
        item
        for item in objects
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"].endswith("-gateway")
    )
    assert tester["metadata"]["namespace"] == policy["metadata"]["namespace"]
    (sessions,) = (
        rule
        for rule in policy["spec"]["ingress"]
        if {"protocol": "TCP", "port": 8080} in rule["ports"]
    )
    wanted = [
        peer["podSelector"]["matchLabels"] for peer in sessions["from"] if "podSelector" in peer
    ]
    labels = tester["metadata"]["labels"].items()
    assert any(each and each.items() <= labels for each in wanted)
