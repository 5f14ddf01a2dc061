"""values.yaml and its schema say the same, and the schema refuses what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHART = Path(__file__).parents[2] / "charts" / "avatar-operator"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def resolve(schema: Mapping[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return dict(schema)
    return {**SCHEMA["$defs"][reference.rsplit("/", 1)[1]], **schema}


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        resolved = resolve(child)
        yield f"{path}.{name}", resolved
        yield from fields(resolved, f"{path}.{name}")


def test_every_value_has_a_description() -> None:
    found = list(fields(SCHEMA))
    assert len(found) > 60
    assert [path for path, schema in found if not schema.get("description")] == []


def test_no_object_with_named_values_takes_others() -> None:
    objects = [("", SCHEMA), *((p, s) for p, s in fields(SCHEMA) if "properties" in s)]
    assert len(objects) > 12
    assert [path for path, schema in objects if schema.get("additionalProperties")] == []
    assert [path for path, schema in objects if "additionalProperties" not in schema] == []


def test_values_file_lists_what_the_schema_knows() -> None:
    def missing(schema: Mapping[str, Any], values: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, child in schema.get("properties", {}).items():
            if name not in values:
                yield f"{path}.{name}"
            elif isinstance(values[name], dict):
                yield from missing(resolve(child), values[name], f"{path}.{name}")

    assert list(missing(SCHEMA, VALUES, "")) == []


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown-value", {"replicas": 2}, "at ''", "additional properties 'replicas' not allowed"),
    ("unknown-nested", {"operator": {"replica": 1}}, "at '/operator'", "'replica' not allowed"),
    (
        "relative-cache",
        {"modelCache": {"volume": {"hostPath": {"path": "models"}}}},
        "at '/modelCache/volume/hostPath/path'",
        "does not match pattern",
    ),
    ("six-operators", {"operator": {"replicas": 6}}, "at '/operator/replicas'", "maximum: got 6"),
    (
        "lease-of-half-seconds",
        {"operator": {"leaderElection": {"leaseDurationSeconds": 4.5}}},
        "/leaderElection/leaseDurationSeconds'",
        "want integer",
    ),
    (
        "memory-alert-in-percent",
        {"monitoring": {"rules": {"alerts": {"vramAlmostFull": {"above": 90}}}}},
        "/alerts/vramAlmostFull/above'",
        "maximum: got 90",
    ),
    (
        "alert-without-a-unit",
        {"monitoring": {"rules": {"alerts": {"stateStale": {"for": "30"}}}}},
        "/alerts/stateStale/for'",
        "does not match",
    ),
    ("text-replicas", {"gateway": {"replicas": "2"}}, "at '/gateway/replicas'", "want integer"),
    ("share-over-one", {"operator": {"memoryShare": 1.5}}, "/memoryShare'", "maximum: got 1.5"),
    ("share-in-percent", {"operator": {"memoryShare": "90%"}}, "/memoryShare'", "want number"),
    ("resync-zero", {"operator": {"resyncSeconds": 0}}, "/resyncSeconds'", "minimum: got 0"),
    ("log-format", {"logFormat": "xml"}, "at '/logFormat'", "one of 'json', 'text'"),
    (
        "deprecated-log-format",
        {"operator": {"logFormat": "xml"}},
        "at '/operator/logFormat'",
        "one of '', 'json', 'text'",
    ),
    (
        "namespace-name",
        {"operator": {"watchNamespaces": ["Acme"]}},
        "/watchNamespaces/0'",
        "'Acme' does not match",
    ),
    (
        "namespace-twice",
        {"operator": {"watchNamespaces": ["a", "a"]}},
        "/watchNamespaces'",
        "are equal",
    ),
    (
        "pull-policy",
        {"runtime": {"image": {"pullPolicy": "Sometimes"}}},
        "/runtime/image/pullPolicy'",
        "'Always', 'IfNotPresent', 'Never'",
    ),
    (
        "digest",
        {"runtime": {"image": {"digest": "sha256:12"}}},
        "/runtime/image/digest'",
        "'sha256:12' does not match",
    ),
    (
        "pod-default",
        {"runtime": {"defaults": {"volumes": []}}},
        "at '/runtime/defaults'",
        "'volumes' not allowed",
    ),
    (
        "pod-default-resources",
        {"runtime": {"defaults": {"resources": {"requests": {"cpu": []}}}}},
        "/defaults/resources/requests/cpu'",
        "want number or string",
    ),
    ("short-key", {"gateway": {"apiKey": {"value": "x"}}}, "/apiKey/value'", "does not match"),
    ("port", {"gateway": {"service": {"port": 70000}}}, "/service/port'", "maximum: got 70,000"),
    (
        "service-type",
        {"gateway": {"service": {"type": "Ingress"}}},
        "/service/type'",
        "'ClusterIP', 'NodePort', 'LoadBalancer'",
    ),
    (
        "cost-as-number",
        {"gpuProfiles": {"costPerHour": {"l4": 0.3}}},
        "/costPerHour/l4'",
        "want string",
    ),
    (
        "cost-of-zero",
        {"gpuProfiles": {"costPerHour": {"l4": "0.00"}}},
        "/costPerHour/l4'",
        "'0.00' does not match",
    ),
    (
        "profile-without-curves",
        {"gpuProfiles": {"extra": {"t4": {"match": {}}}}},
        "/extra/t4'",
        "missing property 'curves'",
    ),
    (
        "environment-of-a-number",
        {"gateway": {"extraEnv": [{"name": "A", "value": 1}]}},
        "/extraEnv/0/value'",
        "want string",
    ),
    (
        "long-name",
        {"fullnameOverride": "a" * 46},
        "/fullnameOverride'",
        "maxLength: got 46, want 45",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "place", "rule"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_value_is_refused_by_place_and_rule(
    helm: Any, values: dict[str, Any], place: str, rule: str
) -> None:
    with pytest.raises(Exception, match="values don't meet the specifications") as refusal:
        helm.template(values)
    assert place in str(refusal.value)
    assert rule in str(refusal.value)


CLASHING: list[tuple[str, dict[str, Any], str]] = [
    (
        "two-caches",
        {
            "modelCache": {
                "volume": {
                    "hostPath": {"path": "/models"},
                    "persistentVolumeClaim": {"claimName": "models"},
                }
            }
        },
        "modelCache.volume has both hostPath and persistentVolumeClaim",
    ),
    (
        "two-keys",
        {"gateway": {"apiKey": {"existingSecret": "s", "value": "0123456789abcdef"}}},
        "gateway.apiKey.existingSecret must not be set together with gateway.apiKey.value",
    ),
    (
        "monitor-of-closed-metrics",
        {"monitoring": {"podMonitor": {"enabled": True}}},
        "monitoring.podMonitor.enabled requires monitoring.openMetrics to be true",
    ),
    (
        "cost-of-unknown-class",
        {"gpuProfiles": {"costPerHour": {"rtx-9090": "1"}}},
        'contains the unknown GPU class "rtx-9090"; the profiles are a10, a100-2g.10gb',
    ),
    (
        "nameless-account",
        {"gateway": {"serviceAccount": {"create": False}}},
        "gateway.serviceAccount.name must be set to an existing ServiceAccount",
    ),
    (
        "deadline-after-the-lease",
        {"operator": {"leaderElection": {"renewDeadlineSeconds": 4}}},
        "operator.leaderElection.renewDeadlineSeconds is 4, must be less than 0.75 times"
        " operator.leaderElection.leaseDurationSeconds, which is 4",
    ),
    (
        "deadline-at-its-limit",
        {"operator": {"leaderElection": {"leaseDurationSeconds": 10, "renewDeadlineSeconds": 7.5}}},
        "renewDeadlineSeconds is 7.5, must be less than 0.75 times",
    ),
    (
        "retry-after-the-deadline",
        {"operator": {"leaderElection": {"retryPeriodSeconds": 2.5}}},
        "operator.leaderElection.retryPeriodSeconds is 2.5, must be less than"
        " operator.leaderElection.renewDeadlineSeconds, which is 2.5",
    ),
    (
        "buffers-over-the-memory",
        {"gateway": {"limits": {"bufferBytes": 2**28}}},
        "gateway.limits.bufferBytes is 268435456, must be less than a third of"
        " gateway.resources.limits.memory, which is 512Mi",
    ),
    (
        "memory-under-the-buffers",
        {"gateway": {"resources": {"limits": {"memory": "0.2G"}, "requests": {"memory": "1Mi"}}}},
        "gateway.limits.bufferBytes is 134217728, must be less than a third of"
        " gateway.resources.limits.memory, which is 0.2G",
    ),
    (
        "memory-as-a-number",
        {"gateway": {"resources": {"limits": {"memory": 3 * 2**27}}}},
        "gateway.limits.bufferBytes is 134217728, must be less than a third of",
    ),
    (
        "memory-that-is-no-quantity",
        {"gateway": {"resources": {"limits": {"memory": "512MB"}}}},
        '"512MB" is not a quantity',
    ),
    (
        "request-over-the-limit",
        {"runtime": {"defaults": {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": "9m"}}}}},
        "runtime.defaults.resources.requests.cpu is 1, must not be more than"
        " runtime.defaults.resources.limits.cpu, which is 9m",
    ),
]

TOGETHER: list[dict[str, Any]] = [
    {
        "operator": {
            "leaderElection": {
                "leaseDurationSeconds": 15,
                "renewDeadlineSeconds": 10,
                "retryPeriodSeconds": 2,
            }
        }
    },
    {"gateway": {"limits": {"bufferBytes": 2**30}, "resources": {"limits": {"memory": "4Gi"}}}},
    {"gateway": {"limits": {"bufferBytes": 2**30}, "resources": {"limits": {"memory": None}}}},
    {"gateway": {"limits": {"bufferBytes": 2**30}, "resources": {"limits": {"memory": "4e9"}}}},
    {"gateway": {"limits": None}},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "sentence"), [c[1:] for c in CLASHING], ids=[c[0] for c in CLASHING]
)
def test_values_that_exclude_each_other_are_refused(
    helm: Any, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Exception) as refusal:  # noqa: PT011
        helm.template(values)
    assert sentence in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("values", TOGETHER)
def test_values_that_work_together_are_accepted(helm: Any, values: dict[str, Any]) -> None:
    assert helm.template(values)
