"""The samples for HPA and KEDA, and how the stand-in for prometheus-adapter reads their rules."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from localcluster import paths, prometheus
from localcluster.fakes import external_metrics

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES: Final = paths.REPOSITORY / "examples" / "external-scaling"
OPTIONS: Final = external_metrics.read_rules(SAMPLES / "prometheus-adapter.yaml")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((SAMPLES / name).read_text()))


def test_a_rule_becomes_the_query_of_one_service() -> None:
    assert OPTIONS["avatar_sessions"].expression("acme", "service=desk") == (
        'sum by (service) (avatar_runtime_sessions{namespace="acme",service="desk"})'
    )
    assert 'free{namespace="acme"})' in OPTIONS["avatar_sessions_free"].expression("acme", "")


def test_an_unsupported_selector_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"labelSelector is 'a in \(b\)', must be label=value"):
        OPTIONS["avatar_sessions"].expression("acme", "a in (b)")


def test_a_pod_is_a_target_for_each_port_while_it_has_an_address() -> None:
    pod: dict[str, Any] = {
        "metadata": {"name": "desk-0", "namespace": "acme", "labels": {"a.b/c-d": "e"}},
        "spec": {"containers": [{"ports": [{"name": "admin", "containerPort": 9090}]}]},
        "status": {"podIP": "127.0.3.4", "phase": "Running"},
    }
    (target,) = prometheus.targets_of(pod)
    assert target["targets"] == ["127.0.3.4:9090"]
    assert target["labels"] == {
        "__meta_kubernetes_namespace": "acme",
        "__meta_kubernetes_pod_name": "desk-0",
        "__meta_kubernetes_pod_label_a_b_c_d": "e",
        "__meta_kubernetes_pod_container_port_name": "admin",
    }
    assert prometheus.targets_of({**pod, "status": {"phase": "Pending"}}) == []
    assert prometheus.targets_of({**pod, "status": {**pod["status"], "phase": "Failed"}}) == []


def test_hpa_and_keda_scale_the_same_service_by_the_same_metric() -> None:
    service, hpa = documents("hpa.yaml")
    (scaled,) = documents("keda.yaml")
    assert "autoscaling" not in service["spec"]
    for target in (hpa["spec"]["scaleTargetRef"], scaled["spec"]["scaleTargetRef"]):
        assert target == {
            "apiVersion": service["apiVersion"],
            "kind": service["kind"],
            "name": service["metadata"]["name"],
        }
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] in OPTIONS
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["threshold"] == metric["external"]["target"]["averageValue"]
    assert trigger["metricType"] == metric["external"]["target"]["type"]
    assert scaled["spec"]["minReplicaCount"] == hpa["spec"]["minReplicas"]
    assert scaled["spec"]["maxReplicaCount"] == hpa["spec"]["maxReplicas"]


def test_queries_of_the_samples_are_valid_promql(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: requirements/install-debian installs it")
    (scaled,) = documents("keda.yaml")
    queries = [rule.expression("acme", "service=desk") for rule in OPTIONS.values()]
    queries += [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert len(queries) == 3
    rules = [{"record": f"sample:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "samples", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
