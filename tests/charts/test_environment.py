"""The variables that the chart sets are those that the settings read."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

import avatar_gateway.settings
import avatar_operator.settings
from avatar_contracts.tls import CertificateFiles
from avatar_operator.core.resources.pod_defaults import PodDefaults
from avatar_operator.core.resources.pod_security import PodSecurity


class Recorded(dict[str, str]):
    """An environment that remembers which of its variables were asked for."""

    def __init__(self, container: dict[str, Any]) -> None:
        # What comes from a Secret or a field is any text that is long enough for a key.
        super().__init__({v["name"]: v.get("value", "x" * 32) for v in container["env"]})
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)


def environment(objects: list[dict[str, Any]], component: str) -> Recorded:
    (deployment,) = [
        item
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith(f"-{component}")
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return Recorded(container)


@pytest.mark.slow
def test_operator_understands_what_the_chart_says(helm: Any) -> None:
    env = environment(
        helm.template(
            {
                "operator": {
                    "watchNamespaces": ["acme", "globex"],
                    "resyncSeconds": 60,
                    "leaderElection": {
                        "leaseDurationSeconds": 15,
                        "renewDeadlineSeconds": 10,
                        "retryPeriodSeconds": 2,
                    },
                    "memoryShare": 0.85,
                    "decisionLog": {"enabled": True},
                },
                "logFormat": "text",
                "runtime": {
                    "image": {"tag": "7"},
                    "imagePullSecrets": ["one", "two"],
                    "defaults": {"priorityClassName": "avatars"},
                },
                "monitoring": {"openMetrics": True},
            }
        ),
        "operator",
    )
    settings = avatar_operator.settings.from_env(env)
    assert env.keys() - env.read == set()
    assert settings.control_secret == "demo-avatar-operator-control"
    assert settings.lease == "demo-avatar-operator-operator"
    timing = settings.timing
    assert (timing.duration_s, timing.renew_deadline_s, timing.retry_s) == (15, 10.0, 2.0)
    assert settings.watch_namespaces == ("acme", "globex")
    assert settings.pods.image == "avatar-musetalk/runtime:7"
    assert settings.pods.image_pull_policy == "IfNotPresent"
    assert settings.pods.image_pull_secrets == ("one", "two")
    assert settings.pods.defaults.template.priority_class == "avatars"
    assert settings.pods.defaults.security == PodSecurity()
    assert (settings.resync_s, settings.memory_share) == (60.0, 0.85)
    assert (str(settings.health), str(settings.metrics)) == ("0.0.0.0:8080", "0.0.0.0:9090")
    assert settings.metrics_open
    assert settings.log_format.value == "text"
    assert settings.decision_log == "-"


@pytest.mark.slow
def test_gateway_understands_what_the_chart_says(helm: Any) -> None:
    env = environment(
        helm.template(
            {
                "operator": {"watchNamespaces": ["acme"]},
                "gateway": {
                    "drainTimeoutSeconds": 90,
                    "limits": {
                        "framesPerSecond": 900,
                        "bytesPerSecond": 3e6,
                        "heldBytes": 2048,
                        "bufferBytes": 2**28,
                        "connections": 1_000_000,
                        "connectionsPerAddress": 50,
                    },
                    "drainDelaySeconds": 0,
                    "trustedProxies": ["10.0.0.0/8", "fd00::1"],
                    "tls": {"secretName": "gateway-tls"},
                    "resources": {"limits": {"memory": "1Gi"}},
                },
                "monitoring": {"openMetrics": True},
            }
        ),
        "gateway",
    )
    settings = avatar_gateway.settings.from_env(env, listen=None, admin=None)
    assert env.keys() - env.read == set()
    assert settings.namespaces == ("acme",)
    assert (settings.sessions.port, settings.admin.port) == (8080, 9090)
    assert settings.drain_timeout_s == 90.0
    assert settings.drain_delay_s == 0.0
    proxies = (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    assert settings.limits == avatar_gateway.settings.Limits(
        900, 3e6, 2048, 2**28, 1_000_000, 50, proxies
    )
    folder = "/var/run/avatar-tls"  # the names of the files are those of a Secret of this type
    assert settings.certificate == CertificateFiles(f"{folder}/tls.crt", f"{folder}/tls.key")
    assert settings.metrics_open


@pytest.mark.slow
@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_defaults_of_the_chart_are_valid_settings(
    defaults: list[dict[str, Any]], component: str
) -> None:
    env = environment(defaults, component)
    if component == "operator":
        assert avatar_operator.settings.from_env(env).watch_namespaces == ()
    else:
        settings = avatar_gateway.settings.from_env(env, listen=None, admin=None)
        assert settings.namespaces == ()
        assert settings.limits == avatar_gateway.settings.Limits()
        assert settings.certificate is None
    assert env.keys() - env.read == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [{"openshift": True}, {"openshift": True, "runtime": {"defaults": None}}],
    ids=["installed", "reused"],
)
def test_no_pod_has_a_fixed_user_on_openshift(helm: Any, values: dict[str, Any]) -> None:
    """OpenShift assigns user IDs by namespace and refuses pods with others."""
    objects = helm.template(values)
    settings = avatar_operator.settings.from_env(environment(objects, "operator"))
    context = settings.pods.defaults.security.pod
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert settings.pods.defaults.security.container == PodSecurity().container
    rendered = json.dumps(
        [item for item in objects if item["kind"] in ("Deployment", "Job", "Pod")]
    )
    assert "runAsUser" not in rendered.replace('\\"', '"')
    assert "fsGroup" not in rendered
    assert rendered.count('"runAsNonRoot": true') == 5


@pytest.mark.slow
def test_a_release_from_before_the_defaults_is_upgraded(helm: Any) -> None:
    """As `helm upgrade --reuse-values` gives the values of that release."""
    objects = helm.template({"runtime": {"defaults": None}, "openshift": None})
    settings = avatar_operator.settings.from_env(environment(objects, "operator"))
    assert settings.pods.defaults == PodDefaults()


LOG_FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "json"),
    "text": ({"logFormat": "text"}, "text"),
    "deprecated": ({"operator": {"logFormat": "text"}}, "text"),
    "deprecated-wins": ({"logFormat": "json", "operator": {"logFormat": "text"}}, "text"),
    # As --reuse-values gives the values of a release from before the value existed.
    "reused": ({"logFormat": None, "operator": {"logFormat": "text"}}, "text"),
    "reused-without-any": ({"logFormat": None, "operator": {"logFormat": None}}, "json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("component", ["operator", "gateway"])
@pytest.mark.parametrize(("values", "expected"), LOG_FORMATS.values(), ids=LOG_FORMATS.keys())
def test_one_value_sets_the_log_format(
    helm: Any, values: dict[str, Any], expected: str, component: str
) -> None:
    assert environment(helm.template(values), component)["AVATAR_LOG_FORMAT"] == expected
