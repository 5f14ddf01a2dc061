from __future__ import annotations

import pytest

from avatar_contracts.labels import LogFormat
from avatar_operator import settings
from avatar_operator.errors import SettingsError
from avatar_operator.settings import Address

LEAST = {"AVATAR_NAMESPACE": "system", "AVATAR_RUNTIME_IMAGE": "runtime:1"}


def test_an_unset_variable_has_a_default() -> None:
    found = settings.from_env(LEAST | {"AVATAR_WATCH_NAMESPACES": "", "AVATAR_RESYNC_S": " "})
    assert (found.namespace, found.control_secret) == ("system", "avatar-operator-control")
    assert (found.watch_namespaces, found.resync_s, found.memory_share) == ((), 300.0, 0.9)
    assert found.health == Address("0.0.0.0", 8080)
    assert str(found.metrics) == "0.0.0.0:9090"
    assert not found.metrics_open
    assert found.log_format is LogFormat.JSON
    assert found.pods.log_format is LogFormat.JSON
    assert found.pods.image_pull_policy == "IfNotPresent"


def test_every_variable_is_read() -> None:
    found = settings.from_env(
        LEAST
        | {
            "AVATAR_CONTROL_SECRET": "control",
            "AVATAR_WATCH_NAMESPACES": "a, b,",
            "AVATAR_RUNTIME_IMAGE_PULL_POLICY": "Always",
            "AVATAR_IMAGE_PULL_SECRETS": "x,y",
            "AVATAR_MEMORY_SHARE": "0.5",
            "AVATAR_RESYNC_S": "60",
            "AVATAR_HEALTH_LISTEN": "[::1]:1",
            "AVATAR_METRICS_LISTEN": "127.0.0.1:2",
            "AVATAR_METRICS_OPEN": "True",
            "AVATAR_LOG_FORMAT": "text",
        }
    )
    assert (found.control_secret, found.watch_namespaces) == ("control", ("a", "b"))
    assert (found.pods.image_pull_policy, found.pods.image_pull_secrets) == ("Always", ("x", "y"))
    assert (found.memory_share, found.resync_s) == (0.5, 60.0)
    assert (found.health, found.metrics) == (Address("::1", 1), Address("127.0.0.1", 2))
    assert found.metrics_open
    assert found.pods.metrics_open
    assert found.log_format is LogFormat.TEXT
    assert found.pods.log_format is LogFormat.TEXT


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        pytest.param("AVATAR_NAMESPACE", "", "is not set, must be set", id="missing"),
        pytest.param("AVATAR_MEMORY_SHARE", "90", "a number from 0.1 to 1", id="percent"),
        pytest.param("AVATAR_RESYNC_S", "soon", "is 'soon', must be a number", id="not a number"),
        pytest.param("AVATAR_HEALTH_LISTEN", "8080", "HOST:PORT", id="no host"),
        pytest.param("AVATAR_HEALTH_LISTEN", "a:70000", "HOST:PORT", id="no port"),
        pytest.param("AVATAR_METRICS_OPEN", "yes", "one of false, true", id="not a boolean"),
        pytest.param("AVATAR_LOG_FORMAT", "xml", "one of json, text", id="no format"),
        pytest.param("AVATAR_RUNTIME_DEFAULTS", "{", "is '{', must be a JSON object", id="no JSON"),
        pytest.param("AVATAR_LEASE_DURATION_S", "4.5", "a whole number", id="half a second"),
        pytest.param("AVATAR_LEASE_RENEW_DEADLINE_S", "3", "less than 3, 0.75 of", id="too late"),
        pytest.param("AVATAR_LEASE_RETRY_S", "2.5", "less than the renew deadline", id="too slow"),
    ],
)
def test_an_invalid_value_names_its_variable(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.from_env(LEAST | {variable: value})
    assert str(caught.value).startswith(variable)
    assert message in str(caught.value)


def test_all_wrong_variables_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.from_env({"AVATAR_RESYNC_S": "0", "AVATAR_LEASE_RETRY_S": "soon"})
    assert [fault.variable for fault in caught.value.faults] == [
        "AVATAR_NAMESPACE",
        "AVATAR_LEASE_RETRY_S",
        "AVATAR_RUNTIME_IMAGE",
        "AVATAR_RESYNC_S",
    ]


def test_wrong_pod_defaults_name_the_field_and_not_the_variable() -> None:
    """The user wrote a value of the chart, not JSON in a variable."""
    wrong = '{"priorityClassName": 3, "resources": {"limits": {"cpu": "-1"}}}'
    with pytest.raises(SettingsError) as caught:
        settings.from_env(LEAST | {"AVATAR_RUNTIME_DEFAULTS": wrong})
    resources, name = str(caught.value).split("; ")
    assert resources.startswith('runtime.defaults.resources.limits.cpu is "-1", must be a quantity')
    assert name.startswith("runtime.defaults.priorityClassName is 3, must be the name of an object")


def test_pod_defaults_are_read() -> None:
    text = '{"nodeSelector": {"pool": "gpu"}}'
    found = settings.from_env(LEAST | {"AVATAR_RUNTIME_DEFAULTS": text})
    assert found.pods.defaults.node_selector == {"pool": "gpu"}
