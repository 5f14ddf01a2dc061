"""The state that the gateways share: brought along, or one Valkey for trials."""

from __future__ import annotations

from typing import Any

import pytest
from tests.charts.conftest import Refused
from tests.charts.test_environment import environment
from tests.charts.test_network_policy import DNS, allowed

import avatar_gateway.settings

pytestmark = pytest.mark.slow
NAME = "demo-avatar-operator-shared-state"
EMBEDDED = {"gateway": {"sharedState": {"embedded": {"enabled": True}}}}


def gateway(helm: Any, **shared: Any) -> avatar_gateway.settings.SharedStateAddress:
    env = environment(helm.template({"gateway": {"sharedState": shared}}), "gateway")
    env |= {"AVATAR_GATEWAY_SHARED_STATE_URL": env.get("AVATAR_GATEWAY_SHARED_STATE_URL", "")}
    if env["AVATAR_GATEWAY_SHARED_STATE_URL"] == "x" * 32:  # from a Secret
        env["AVATAR_GATEWAY_SHARED_STATE_URL"] = "redis://secret"
    return avatar_gateway.settings.from_env(env, listen=None, admin=None).shared_state


def test_gateways_are_told_where_the_server_is(helm: Any) -> None:
    assert gateway(helm).url == ""
    assert gateway(helm, embedded={"enabled": True}).url == f"redis://{NAME}:6379"
    own = gateway(helm, url="rediss://cache:6380", existingSecret="cache")
    assert own.url == "rediss://cache:6380"
    assert own.password_file == "/var/run/avatar-shared-state/password"
    secret = gateway(helm, existingSecret="cache")
    assert (secret.url, secret.password_file) == ("redis://secret", "")


def test_the_files_of_the_password_are_mounted(helm: Any) -> None:
    objects = helm.template(
        {"gateway": {"sharedState": {"url": "redis://cache", "existingSecret": "cache"}}}
    )
    (spec,) = [
        item["spec"]["template"]["spec"]
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("-gateway")
    ]
    assert {"name": "shared-state", "secret": {"secretName": "cache"}} in spec["volumes"]
    (mount,) = [
        mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "shared-state"
    ]
    assert mount["mountPath"] == "/var/run/avatar-shared-state"


def test_the_server_for_trials_is_off_by_default_and_only_gateways_reach_it(helm: Any) -> None:
    assert not [each for each in helm.template({}) if each["metadata"]["name"] == NAME]
    objects = {
        each["kind"]: each for each in helm.template(EMBEDDED) if each["metadata"]["name"] == NAME
    }
    assert objects.keys() == {"Deployment", "Service", "NetworkPolicy"}
    policy = objects["NetworkPolicy"]["spec"]
    assert list(allowed(policy["ingress"], "from")) == [("TCP", 6379, "gateway")]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.get("egress", []) == []
    template = objects["Deployment"]["spec"]["template"]
    selector = objects["Deployment"]["spec"]["selector"]
    assert policy["podSelector"] == selector
    assert objects["Service"]["spec"]["selector"] == selector["matchLabels"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert all("emptyDir" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ({}, set()),
        ({"embedded": {"enabled": True}}, {("TCP", 6379, "shared-state")}),
        ({"url": "redis://cache"}, {("TCP", 6379, "everyone")}),
        ({"url": "rediss://cache:6380/2"}, {("TCP", 6380, "everyone")}),
        ({"existingSecret": "cache"}, {("TCP", 6379, "everyone")}),
    ],
    ids=range(5),
)
def test_the_gateway_may_connect_to_the_server(
    helm: Any, shared: dict[str, Any], expected: set[tuple[str, int, str]]
) -> None:
    objects = helm.template(
        {"networkPolicy": {"enabled": True}, "gateway": {"sharedState": shared}}
    )
    (policy,) = [
        each
        for each in objects
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-gateway")
    ]
    found = set(allowed(policy["spec"]["egress"], "to")) - DNS
    assert {each for each in found if each[1] in (6379, 6380)} == expected


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"url": "redis://c", "embedded": {"enabled": True}}, "embedded.enabled is true, must be"),
        ({"url": "http://c"}, "/gateway/sharedState/url"),
        ({"url": "redis://:password@c"}, "/gateway/sharedState/url"),
    ],
    ids=range(3),
)
def test_wrong_values_are_refused(helm: Any, shared: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        helm.template({"gateway": {"sharedState": shared}})
