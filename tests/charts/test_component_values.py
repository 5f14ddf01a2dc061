"""Values that platform teams set: each arrives where the API server reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.charts.test_render import named, of_kind, pod_templates

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.slow
CHART: Final = Path(__file__).parents[2] / "charts" / "avatar-operator"
PROMETHEUS: Final = ("--api-versions", "monitoring.coreos.com/v1")
Manifest = dict[str, Any]

PLATFORMS: Final = ("aks", "eks", "gke", "hardened", "k3s", "openshift")

COMPONENT: Final[dict[str, Any]] = {
    "revisionHistoryLimit": 0,
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["10.0.0.10"]},
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["registry"]}],
    "automountServiceAccountToken": False,
    "priorityClassName": "high",
    "extraEnv": [{"name": "ONE", "value": "1"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraArgs": ["--more"],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    "initContainers": [{"name": "first", "image": "i"}],
    "extraContainers": [{"name": "beside", "image": "s"}],
}
EVERYTHING: Final[dict[str, Any]] = {
    "global": {
        "imageRegistry": "mirror.example/",
        "imagePullSecrets": ["one", {"name": "two"}],
        "another": {"chart": "s"},
    },
    "imagePullSecrets": ["two", "three"],
    "commonLabels": {"team": "av", "app.kubernetes.io/name": "theirs"},
    "commonAnnotations": {"cost": "42"},
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-map", "namespace": "avatars"},
        },
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text, namespace: avatars}",
    ],
    "operator": {**COMPONENT, "terminationGracePeriodSeconds": 25},
    "gateway": {
        **COMPONENT,
        "sharedState": {"embedded": {"enabled": True}},
        "tenants": {"keysNamespace": "keys", "createKeysNamespace": True},
        "apiKey": {"value": "0123456789abcdef"},
        "ingress": {"enabled": True, "hosts": ["a.example"]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "certificate": {"enabled": True, "issuerRef": {"name": "ca"}},
        "autoscaling": {"enabled": True},
    },
    "runtime": {"imagePullSecrets": ["four"]},
    "cleanup": {"enabled": True},
    "crds": {"keep": False},
    "networkPolicy": {"enabled": True},
    "monitoring": {
        "openMetrics": True,
        "podMonitor": {"enabled": True},
        "serviceMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}


@pytest.fixture(scope="module")
def everything(helm: Any) -> list[Manifest]:
    objects: list[Manifest] = helm.template(EVERYTHING, args=PROMETHEUS)
    return objects


def shipped(objects: list[Manifest]) -> list[Manifest]:
    """Return the objects of the chart, without the additional ones."""
    return [o for o in objects if o["metadata"]["name"] not in ("demo-map", "text")]


def test_common_labels_and_annotations_are_on_every_object(everything: list[Manifest]) -> None:
    objects = shipped(everything)
    assert len(objects) > 60
    metadata = [o["metadata"] for o in objects]
    metadata += [template["metadata"] for template in pod_templates(objects)]
    for each in metadata:
        assert each["labels"]["team"] == "av"
        assert each["labels"]["app.kubernetes.io/name"] == "avatar-operator"
        assert each["annotations"]["cost"] == "42"
    hooks = {o["metadata"]["annotations"].get("helm.sh/hook") for o in objects}
    assert hooks == {None, "test", "pre-upgrade", "pre-delete", "post-delete"}


def test_every_container_has_bounds_of_its_storage(everything: list[Manifest]) -> None:
    containers = [
        each
        for template in pod_templates(shipped(everything))
        for each in template["spec"]["containers"]
        if each["name"] != "beside"
    ]
    assert len(containers) >= 6
    for each in containers:
        for bound in ("requests", "limits"):
            assert "ephemeral-storage" in each["resources"][bound], each["name"]


def test_common_annotations_cannot_make_hooks_of_all_objects(helm: Any) -> None:
    with pytest.raises(Exception, match=r"commonAnnotations contains helm\.sh/hook, must not"):
        helm.template({"commonAnnotations": {"helm.sh/hook": "pre-install"}})


def test_additional_objects_are_templates(everything: list[Manifest]) -> None:
    maps = {o["metadata"]["name"] for o in of_kind(everything, "ConfigMap")}
    assert maps >= {"demo-map", "text"}


def test_every_image_and_every_pod_has_the_global_registry_and_secrets(
    everything: list[Manifest],
) -> None:
    templates = list(pod_templates(everything))
    assert len(templates) == 7
    for template in templates:
        spec = template["spec"]
        (container, *_) = spec["containers"]
        assert container["image"].startswith("mirror.example/")
        names = [each["name"] for each in spec["imagePullSecrets"]]
        assert names == ["one", "two", "three"]
    operator = named(everything, "Deployment", "-operator")["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in operator["containers"][0]["env"]}
    assert env["AVATAR_RUNTIME_IMAGE"] == "mirror.example/avatar-musetalk/runtime:0.1.0"
    assert env["AVATAR_IMAGE_PULL_SECRETS"] == "one,two,four"


def test_a_registry_of_an_image_wins_over_the_global_one(helm: Any) -> None:
    values = {
        "global": {"imageRegistry": "mirror.example"},
        "gateway": {"image": {"registry": "own.example"}},
    }
    objects = helm.template(values)
    images = {
        name: named(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        for name in ("-operator", "-gateway")
    }
    assert images["-gateway"]["image"] == "own.example/avatar-musetalk/gateway:0.1.0"
    assert images["-operator"]["image"] == "mirror.example/avatar-musetalk/operator:0.1.0"


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_settings_of_a_component_arrive_in_its_pods(
    everything: list[Manifest], component: str
) -> None:
    deployment = named(everything, "Deployment", f"-{component}")["spec"]
    spec = deployment["template"]["spec"]
    container, beside = spec["containers"]
    assert deployment["revisionHistoryLimit"] == 0
    for field in ("dnsPolicy", "dnsConfig", "hostAliases", "initContainers", "priorityClassName"):
        assert spec[field] == COMPONENT[field]
    assert spec["automountServiceAccountToken"] is False
    assert beside == COMPONENT["extraContainers"][0]
    assert container["args"] == ["--more"]
    assert container["envFrom"] == COMPONENT["extraEnvFrom"]
    assert COMPONENT["extraEnv"][0] in container["env"]
    assert COMPONENT["extraVolumes"][0] in spec["volumes"]
    assert COMPONENT["extraVolumeMounts"][0] in container["volumeMounts"]
    grace = {"operator": 25, "gateway": 3640}
    assert spec["terminationGracePeriodSeconds"] == grace[component]


def test_replicas_are_spread_over_zones_unless_the_values_say_otherwise(helm: Any) -> None:
    own = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"a": "b"}}}
    objects = helm.template({"gateway": {"topologySpreadConstraints": [own]}})
    gateway, operator = (
        named(objects, "Deployment", f"-{c}")["spec"] for c in ("gateway", "operator")
    )
    assert gateway["template"]["spec"]["topologySpreadConstraints"] == [own]
    (zone,) = operator["template"]["spec"]["topologySpreadConstraints"]
    assert zone["topologyKey"] == "topology.kubernetes.io/zone"
    assert zone["whenUnsatisfiable"] == "ScheduleAnyway"
    assert zone["labelSelector"] == operator["selector"]


def test_accounts_mount_no_token_by_themselves(defaults: list[Manifest]) -> None:
    accounts = {
        o["metadata"]["name"].rpartition("-")[2]: o for o in of_kind(defaults, "ServiceAccount")
    }
    for component in ("operator", "gateway"):
        assert accounts[component]["automountServiceAccountToken"] is False
        pod = named(defaults, "Deployment", f"-{component}")["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is True


def test_service_monitors_take_the_place_of_the_pod_monitors(everything: list[Manifest]) -> None:
    monitors = {o["metadata"]["name"]: o for o in of_kind(everything, "ServiceMonitor")}
    assert {name.rpartition("-")[2] for name in monitors} == {"operator", "gateway"}
    pods = {o["metadata"]["name"].rpartition("-")[2] for o in of_kind(everything, "PodMonitor")}
    assert pods == {"runtime"}
    services = of_kind(everything, "Service")
    for monitor in monitors.values():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (s for s in services if wanted <= s["metadata"]["labels"].items())
        (endpoint,) = monitor["spec"]["endpoints"]
        (port,) = service["spec"]["ports"]
        assert endpoint["port"] == port["name"]
        assert {"action": "labeldrop", "regex": "service"} in endpoint["relabelings"]
        deployments = [
            o["spec"]["selector"]["matchLabels"] for o in of_kind(everything, "Deployment")
        ]
        assert service["spec"]["selector"] in deployments
    # The port of the metrics is not on the Service of callers.
    callers = next(s for s in services if s["metadata"]["name"].endswith("-gateway"))
    assert [port["targetPort"] for port in callers["spec"]["ports"]] == ["sessions"]


def test_an_upgrade_of_a_release_before_these_values_renders_what_it_had(helm: Any) -> None:
    """As --reuse-values gives the values of that release."""
    new = ("global", "commonLabels", "commonAnnotations", "extraObjects", "cleanup")
    exposure = ("ingress", "httpRoute", "certificate", "autoscaling")
    dropped: Mapping[str, Any] = {
        **dict.fromkeys(new),
        "crds": {"keep": None},
        "monitoring": {"serviceMonitor": None},
        "operator": dict.fromkeys((*COMPONENT, "topologySpreadConstraints")),
        "gateway": dict.fromkeys((*COMPONENT, *exposure, "topologySpreadConstraints")),
    }
    objects = helm.template(dropped)
    pod = named(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    assert "topologySpreadConstraints" not in pod
    assert of_kind(objects, "Ingress") == []


@pytest.mark.parametrize("path", sorted((CHART / "ci").glob("*.yaml")), ids=lambda path: path.stem)
def test_values_of_a_platform_fit_the_chart(helm: Any, path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    objects = helm.template(values, args=PROMETHEUS)
    text = json.dumps(objects)
    gateway = named(objects, "Service", "-gateway")
    assert gateway["spec"]["type"] == values["gateway"].get("service", {}).get("type", "ClusterIP")
    exposed = {o["kind"] for o in objects} & {"Ingress", "HTTPRoute"}
    assert exposed or gateway["spec"]["type"] == "LoadBalancer"
    assert "avatar.fullname" not in text  # additional objects are templates
    assert path.stem.removesuffix("-values") in PLATFORMS
