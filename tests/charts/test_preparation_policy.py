"""Which connections the pods of Avatars may open, from the values of the chart to the policy."""

from __future__ import annotations

import ipaddress
from typing import Any, cast

import pytest
from tests.charts.test_environment import environment
from tests.operator.conftest import Make

import avatar_operator.settings
from avatar_operator.core.manifests import preparation
from avatar_operator.names import preparation_policy

pytestmark = pytest.mark.slow
URL = {"url": {"url": "https://films.example/a.mp4", "sha256": "0" * 64}}
ON = {"networkPolicy": {"enabled": True}}


@pytest.fixture
def make() -> Make:
    return Make()


def policy(helm: Any, make: Make, values: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Return the policy of an avatar, as an operator with these values of the chart renders it."""
    settings = avatar_operator.settings.from_env(environment(helm.template(values), "operator"))
    assert settings.preparation.egress is not None
    avatar = make.avatar(**spec)
    name = preparation_policy(avatar.key.name)
    egress = settings.preparation.egress
    rendered = cast("Any", preparation.network_policy(avatar, name, egress))
    pods, prepares = settings.pods, settings.preparation
    job = cast("Any", preparation.job(avatar, "anna-prepare-0", 0, None, pods, prepares))
    marks = job["spec"]["template"]["metadata"]["labels"]
    assert rendered["spec"]["podSelector"]["matchLabels"].items() <= marks.items()
    assert rendered["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert rendered["spec"]["ingress"] == []
    return dict(rendered["spec"])


def allows(spec: dict[str, Any], address: str, port: int, protocol: str = "TCP") -> bool:
    """Return whether a policy lets its pods connect to an address outside the cluster."""
    found = ipaddress.ip_address(address)

    def matches(peer: dict[str, Any]) -> bool:
        block = peer.get("ipBlock")
        if block is None:
            return False
        inside = found in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            found in ipaddress.ip_network(each) for each in block.get("except", [])
        )

    for rule in spec["egress"]:
        assert rule.get("to") != [], "an empty list allows everyone"
        ports = {(each["protocol"], each["port"]) for each in rule["ports"]}
        if (protocol, port) in ports and ("to" not in rule or any(map(matches, rule["to"]))):
            return True
    return False


def test_a_job_without_a_download_connects_to_nothing(helm: Any, make: Make) -> None:
    spec = policy(helm, make, ON)
    assert spec["egress"] == []


def test_a_download_reaches_servers_and_no_credentials_of_the_cloud(helm: Any, make: Make) -> None:
    spec = policy(helm, make, ON, source=URL)
    assert allows(spec, "93.184.216.34", 443)
    assert allows(spec, "10.96.0.10", 53, "UDP")
    assert allows(spec, "2606:2800:220:1::1", 443)
    for address in ("169.254.169.254", "fe80::1", "fd00:ec2::254"):
        for port in (80, 443):
            assert not allows(spec, address, port), (address, port)
    for port in (22, 6443, 10250, 8080):
        assert not allows(spec, "10.0.0.1", port), port
    pods = [peer for rule in spec["egress"] for peer in rule.get("to", [])]
    assert {"namespaceSelector": {}} in pods  # servers inside the cluster


def test_an_administrator_names_the_servers(helm: Any, make: Make) -> None:
    to = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    limited = {"networkPolicy": {"enabled": True, "preparation": {"ports": [443], "to": to}}}
    spec = policy(helm, make, limited, source=URL)
    assert allows(spec, "192.0.2.7", 443)
    assert not allows(spec, "192.0.2.7", 80)
    assert not allows(spec, "93.184.216.34", 443)


def test_labels_of_the_template_do_not_take_a_pod_out_of_its_policy(helm: Any, make: Make) -> None:
    marks = {"avatar.musetalk.io/avatar": "other", "app.kubernetes.io/name": "other"}
    policy(helm, make, ON, template={"labels": marks})
