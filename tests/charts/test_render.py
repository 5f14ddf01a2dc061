"""The chart renders for many sets of values, and what it renders is sound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

Manifest = dict[str, Any]
CHART = Path(__file__).parents[2] / "charts" / "avatar-operator"
SHIPPED: dict[str, Any] = yaml.safe_load((CHART / "gpu-profiles.yaml").read_text())
PROFILE = SHIPPED["l4"]
PROMETHEUS = ("--api-versions", "monitoring.coreos.com/v1")

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "names": {"nameOverride": "faces"},
    "full-name": {"fullnameOverride": "f" * 45},
    "pull-secrets": {
        "imagePullSecrets": ["one", "two"],
        "runtime": {"imagePullSecrets": ["three"]},
    },
    "registry": {"operator": {"image": {"registry": "registry.example:5000/", "tag": "x"}}},
    "digest": {"gateway": {"image": {"digest": f"sha256:{'0' * 64}"}}},
    "tls": {"gateway": {"tls": {"secretName": "gateway-tls"}, "service": {"port": 443}}},
    "one-namespace": {"operator": {"watchNamespaces": ["acme"]}},
    "namespaces": {"operator": {"watchNamespaces": ["acme", "globex", "avatars"]}},
    "operator-settings": {
        "logFormat": "text",
        "operator": {"resyncSeconds": 60, "memoryShare": 0.85, "logFormat": "text"},
    },
    "rollout": {"operator": {"rollout": {"readyTimeoutSeconds": 30, "latencyFactor": 1.5}}},
    "no-guard": {"guard": {"enabled": False}},
    "break-glass": {"guard": {"breakGlassGroups": ["sre", "oncall:emea"]}},
    "accounts": {
        "operator": {"serviceAccount": {"create": False, "name": "mine"}},
        "gateway": {"serviceAccount": {"name": "other", "annotations": {"role": "arn:1"}}},
    },
    "placement": {
        "operator": {
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "system", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "system-cluster-critical",
        },
        "gateway": {
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                }
            ]
        },
    },
    "pod-metadata": {
        "operator": {"podLabels": {"team": "av"}, "podAnnotations": {"note": "yes"}},
        "gateway": {"podLabels": {"team": "av"}, "podAnnotations": {"note": "yes"}},
    },
    "environment": {
        "operator": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]},
        "gateway": {
            "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
        },
    },
    "api-key": {"gateway": {"apiKey": {"value": "0123456789abcdef"}}},
    "existing-api-key": {"gateway": {"apiKey": {"existingSecret": "keys"}}},
    "load-balancer": {
        "gateway": {
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a/b": "c"}},
            "replicas": 3,
        }
    },
    "node-port": {"gateway": {"service": {"type": "NodePort", "nodePort": 30080}}},
    "ignored-node-port": {"gateway": {"service": {"nodePort": 30080}}},
    "no-budget": {"gateway": {"podDisruptionBudget": {"enabled": False}}},
    "budget-in-percent": {"gateway": {"podDisruptionBudget": {"maxUnavailable": "25%"}}},
    "no-profiles": {"gpuProfiles": {"enabled": False}},
    "own-profiles-only": {"gpuProfiles": {"enabled": False, "extra": {"t4": PROFILE}}},
    "more-profiles": {"gpuProfiles": {"extra": {"t4": PROFILE}, "costPerHour": {"l4": "0.2"}}},
    "open-metrics": {"monitoring": {"openMetrics": True}},
    "pod-monitors": {
        "monitoring": {
            "openMetrics": True,
            "podMonitor": {"enabled": True, "interval": "5s", "labels": {"release": "prom"}},
        }
    },
    "rules-and-dashboard": {
        "monitoring": {
            "rules": {"enabled": True, "labels": {"release": "prom"}, "runbookUrl": "https://d/a"},
            "dashboards": {"enabled": True, "labels": {"grafana": "yes"}},
        }
    },
    "network-policy": {"networkPolicy": {"enabled": True}},
    "shared-state": {
        "networkPolicy": {"enabled": True},
        "gateway": {"sharedState": {"embedded": {"enabled": True}}, "usageLog": "-"},
    },
    "network-policy-from": {
        "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]}
    },
    "as-a-part-of-another-chart": {"global": {"anything": 1}},
}


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [item for item in objects if item["kind"] == kind]


def named(objects: list[Manifest], kind: str, suffix: str) -> Manifest:
    (found,) = [o for o in of_kind(objects, kind) if o["metadata"]["name"].endswith(suffix)]
    return found


def identity(item: Manifest) -> tuple[str, str, str]:
    return (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])


def pod_templates(objects: list[Manifest]) -> Iterator[Manifest]:
    for item in [*of_kind(objects, "Deployment"), *of_kind(objects, "Job")]:
        yield item["spec"]["template"]
    yield from of_kind(objects, "Pod")


@pytest.mark.slow
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_what_is_rendered_is_sound(helm: Any, values: dict[str, Any]) -> None:
    objects = helm.template(values, release="r" * 53, args=PROMETHEUS)
    embedded = "sharedState" in values.get("gateway", {})
    assert len(of_kind(objects, "Deployment")) == 2 + embedded
    identities = [identity(item) for item in objects]
    assert len(set(identities)) == len(identities)
    assert [i for i in identities if len(i[2]) > 63] == []
    labels = [item["metadata"]["labels"] for item in objects]
    too_long = [v for each in labels for v in each.values() if len(v) > 63]
    assert too_long == []
    for item in of_kind(objects, "Deployment"):
        pod = item["spec"]["template"]
        selector = item["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod["metadata"]["labels"].items()
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "avatar-operator"
    roles = {i for i in identities if i[0] in ("Role", "ClusterRole")}
    for item in [*of_kind(objects, "RoleBinding"), *of_kind(objects, "ClusterRoleBinding")]:
        namespace = item["metadata"].get("namespace", "")
        assert (item["roleRef"]["kind"], namespace, item["roleRef"]["name"]) in roles


@pytest.mark.slow
def test_lint_finds_nothing(helm: Any) -> None:
    helm.run("lint", "--strict", str(CHART))


@pytest.mark.slow
def test_pods_obey_the_restricted_standard(defaults: list[Manifest]) -> None:
    pods = [template["spec"] for template in pod_templates(defaults)]
    assert len(pods) == 5
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(not {"hostPath"} & volume.keys() for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@pytest.mark.slow
def test_components_run_under_accounts_of_their_own(defaults: list[Manifest]) -> None:
    accounts = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]["serviceAccountName"]
        for item in of_kind(defaults, "Deployment")
    }
    assert accounts == {
        "demo-avatar-operator-operator": "demo-avatar-operator-operator",
        "demo-avatar-operator-gateway": "demo-avatar-operator-gateway",
    }


@pytest.mark.slow
def test_a_second_operator_stands_by_on_another_node_if_it_can(defaults: list[Manifest]) -> None:
    spec = named(defaults, "Deployment", "-operator")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = spec["template"]["spec"]
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selected = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    budget = named(defaults, "PodDisruptionBudget", "-operator")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}


@pytest.mark.slow
def test_a_second_gateway_runs_on_another_node_if_it_can(defaults: list[Manifest]) -> None:
    spec = named(defaults, "Deployment", "-gateway")["spec"]
    assert spec["replicas"] == 2
    pod = spec["template"]["spec"]
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selected = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    budget = named(defaults, "PodDisruptionBudget", "-gateway")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}


@pytest.mark.slow
def test_the_replicas_share_the_lease_that_the_chart_makes(defaults: list[Manifest]) -> None:
    (lease,) = of_kind(defaults, "Lease")
    assert "spec" not in lease  # what the operators write there is never helm's
    pod = named(defaults, "Deployment", "-operator")["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["AVATAR_LEASE"] == lease["metadata"]["name"]


@pytest.mark.slow
def test_a_single_operator_has_no_budget_that_would_block_a_node_drain(helm: Any) -> None:
    objects = helm.template({"operator": {"replicas": 1}})
    budgets = [item["metadata"]["name"] for item in of_kind(objects, "PodDisruptionBudget")]
    assert budgets == ["demo-avatar-operator-gateway"]


@pytest.mark.slow
def test_an_affinity_of_the_user_takes_the_place_of_ours(helm: Any) -> None:
    wanted: dict[str, Any] = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}
    }
    objects = helm.template({"operator": {"affinity": wanted}})
    pod = named(objects, "Deployment", "-operator")["spec"]["template"]["spec"]
    assert pod["affinity"] == wanted


@pytest.mark.slow
def test_service_leads_to_the_sessions_port_and_not_to_the_admin_port(
    defaults: list[Manifest],
) -> None:
    service = named(defaults, "Service", "-gateway")
    gateway = named(defaults, "Deployment", "-gateway")["spec"]["template"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["sessions"]
    ports = {p["name"]: p["containerPort"] for p in gateway["spec"]["containers"][0]["ports"]}
    assert ports == {"sessions": 8080, "admin": 9090}
    assert service["spec"]["selector"].items() <= gateway["metadata"]["labels"].items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ({}, "demo-avatar-operator-api-key"),
        ({"value": "0123456789abcdef"}, "demo-avatar-operator-api-key"),
        ({"existingSecret": "keys"}, "keys"),
    ],
    ids=["none", "value", "existing"],
)
def test_gateway_reads_its_key_from_a_secret(helm: Any, key: dict[str, str], secret: str) -> None:
    objects = helm.template({"gateway": {"apiKey": key}})
    spec = named(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
    # As files, which the kubelet updates: a variable would need a restart.
    assert "AVATAR_API_KEY" not in env
    (mount,) = [
        each
        for each in spec["containers"][0]["volumeMounts"]
        if each["mountPath"] == env["AVATAR_API_KEY_FOLDER"]
    ]
    assert mount["readOnly"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == mount["name"]]
    assert volume["secret"] == {"secretName": secret}
    assert len(of_kind(objects, "Secret")) == ("value" in key)


@pytest.mark.slow
def test_image_is_made_of_its_parts(helm: Any) -> None:
    digest = f"sha256:{'0' * 64}"
    objects = helm.template(
        {
            "operator": {"image": {"registry": "r.example/", "tag": "t"}},
            "gateway": {"image": {"registry": "r.example", "tag": "t", "digest": digest}},
        }
    )
    images = {
        c["name"]: c["image"] for t in pod_templates(objects) for c in t["spec"]["containers"]
    }
    assert images["operator"] == "r.example/avatar-musetalk/operator:t"
    assert images["gateway"] == f"r.example/avatar-musetalk/gateway@{digest}"
    operator = named(objects, "Deployment", "-operator")["spec"]["template"]["spec"]["containers"][
        0
    ]
    (runtime,) = [v["value"] for v in operator["env"] if v["name"] == "AVATAR_RUNTIME_IMAGE"]
    assert runtime == "avatar-musetalk/runtime:0.1.0"


@pytest.mark.slow
def test_shipped_profiles_arrive_as_written(defaults: list[Manifest]) -> None:
    profiles = {p["metadata"]["name"]: p["spec"] for p in of_kind(defaults, "GPUProfile")}
    assert profiles == SHIPPED


@pytest.mark.slow
def test_own_profile_takes_the_place_of_a_shipped_one(helm: Any) -> None:
    objects = helm.template(
        {"gpuProfiles": {"extra": {"rtx-4090": PROFILE}, "costPerHour": {"a100-80gb": "9.5"}}}
    )
    profiles = {p["metadata"]["name"]: p["spec"] for p in of_kind(objects, "GPUProfile")}
    dearer = {**SHIPPED["a100-80gb"], "costPerHour": "9.5"}
    assert profiles == {**SHIPPED, "rtx-4090": PROFILE, "a100-80gb": dearer}


@pytest.mark.slow
def test_pod_monitors_need_their_api(helm: Any) -> None:
    monitored = VALUES["pod-monitors"]
    assert of_kind(helm.template(monitored), "PodMonitor") == []
    monitors = of_kind(helm.template(monitored, args=PROMETHEUS), "PodMonitor")
    objects = helm.template(monitored)
    ports = {
        port["name"]
        for template in pod_templates(objects)
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }
    assert len(monitors) == 3
    assert {m["spec"]["podMetricsEndpoints"][0]["port"] for m in monitors} <= ports
    assert all(m["metadata"]["labels"]["release"] == "prom" for m in monitors)


@pytest.mark.slow
def test_notes_name_the_next_command(helm: Any) -> None:
    args = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "avatars")
    notes = helm.run(*args).partition("NOTES:")[2]
    assert "kubectl create secret generic demo-avatar-operator-api-key" in notes
    assert "kind: AvatarService" in notes
    assert "service/demo-avatar-operator-gateway 8080:80" in notes
    assert "The 2 gateways share no state" in notes
    shared = {"gateway": {"sharedState": {"url": "redis://cache"}}}
    assert "share no state" not in helm.run(*args, values=shared)
    keyed = helm.run(*args, values={"gateway": {"apiKey": {"existingSecret": "keys"}}})
    assert "kubectl create secret" not in keyed.partition("NOTES:")[2]


def test_no_template_asks_the_cluster() -> None:
    templates = [p for p in (CHART / "templates").rglob("*") if p.is_file()]
    assert len(templates) > 10
    asking = [p.name for p in templates if re.search(r"\blookup\b", p.read_text())]
    assert asking == []


@pytest.mark.slow
def test_callers_cannot_keep_the_probes_of_the_gateway_out(defaults: list[Manifest]) -> None:
    spec = named(defaults, "Deployment", "-gateway")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    probes = [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness")]
    assert [*probes, container["readinessProbe"]["httpGet"]["port"]] == ["admin"] * 3


@pytest.mark.slow
def test_a_gateway_that_stops_still_accepts_callers_for_a_time(helm: Any) -> None:
    for values, delay, grace in (
        ({}, "10", 3640),
        ({"gateway": {"drainDelaySeconds": 0, "drainTimeoutSeconds": 5}}, "0", 35),
        ({"gateway": {"drainDelaySeconds": None}}, "10", 3640),
    ):
        deployment = named(helm.template(values), "Deployment", "-gateway")
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        spec = deployment["spec"]["template"]["spec"]
        env = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
        assert env["AVATAR_GATEWAY_DRAIN_DELAY_S"] == delay
        assert spec["terminationGracePeriodSeconds"] == grace


@pytest.mark.slow
def test_the_gateway_serves_tls_with_the_files_of_a_secret(helm: Any) -> None:
    objects = helm.template({"gateway": {"tls": {"secretName": "gateway-tls"}}})
    pod = named(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "tls"]
    assert volume["secret"] == {"secretName": "gateway-tls"}
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "tls"]
    assert mount == {"name": "tls", "mountPath": "/var/run/avatar-tls", "readOnly": True}
    (test,) = of_kind(objects, "Pod")
    assert test["spec"]["containers"][0]["args"][1].startswith("https://")


def test_without_a_secret_the_gateway_serves_without_encryption(
    defaults: list[Manifest],
) -> None:
    (test,) = of_kind(defaults, "Pod")
    assert test["spec"]["containers"][0]["args"][1].startswith("http://")
