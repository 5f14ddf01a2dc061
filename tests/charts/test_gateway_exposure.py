"""How callers reach the gateway: Service, Ingress, HTTPRoute, certificates, and its replicas."""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.charts.test_render import named, of_kind

pytestmark = pytest.mark.slow
Manifest = dict[str, Any]
HOSTS: Final = ["a.example", "b.example"]


def gateway(helm: Any, **values: Any) -> list[Manifest]:
    objects: list[Manifest] = helm.template({"gateway": values})
    return objects


def test_settings_of_the_service_arrive(helm: Any) -> None:
    service = {
        "type": "LoadBalancer",
        "labels": {"tier": "edge"},
        "annotations": {"a/b": "c"},
        "loadBalancerClass": "service.k8s.aws/nlb",
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "sessionAffinityTimeoutSeconds": 600,
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
        "appProtocol": "kubernetes.io/ws",
    }
    rendered = named(gateway(helm, service=service), "Service", "-gateway")
    spec = rendered["spec"]
    plain = service.keys() - {
        "labels",
        "annotations",
        "appProtocol",
        "sessionAffinityTimeoutSeconds",
    }
    assert {key: spec[key] for key in plain} == {key: service[key] for key in plain}
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 600}}
    assert spec["ports"][0]["appProtocol"] == "kubernetes.io/ws"
    assert rendered["metadata"]["labels"]["tier"] == "edge"
    assert rendered["metadata"]["annotations"] == {"a/b": "c"}


def test_an_ingress_keeps_websockets_open_and_leads_to_the_sessions(helm: Any) -> None:
    ingress = {
        "enabled": True,
        "className": "nginx",
        "hosts": HOSTS,
        "tlsSecretName": "cert",
        "timeoutSeconds": 7500,
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "on", "own": "x"},
    }
    objects = gateway(helm, ingress=ingress)
    (rendered,) = of_kind(objects, "Ingress")
    annotations = rendered["metadata"]["annotations"]
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        assert annotations[f"nginx.ingress.kubernetes.io/{name}"] == "7500"
    assert annotations["haproxy-ingress.github.io/timeout-tunnel"] == "7500s"
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "on"  # the value wins
    assert "nginx.ingress.kubernetes.io/backend-protocol" not in annotations
    spec = rendered["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"secretName": "cert", "hosts": HOSTS}]
    assert [rule["host"] for rule in spec["rules"]] == HOSTS
    (path,) = spec["rules"][0]["http"]["paths"]
    service = named(objects, "Service", "-gateway")
    backend = {"name": service["metadata"]["name"], "port": {"name": "sessions"}}
    assert path == {"path": "/", "pathType": "Prefix", "backend": {"service": backend}}
    assert service["spec"]["ports"][0]["name"] == "sessions"


def test_an_ingress_speaks_tls_to_gateways_that_serve_it(helm: Any) -> None:
    (rendered,) = of_kind(
        gateway(helm, ingress={"enabled": True, "hosts": HOSTS}, tls={"secretName": "inner"}),
        "Ingress",
    )
    annotations = rendered["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert "tls" not in rendered["spec"]


def test_a_route_has_no_time_limit_unless_the_values_say_otherwise(helm: Any) -> None:
    route: dict[str, Any] = {
        "enabled": True,
        "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": HOSTS,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}],
        "labels": {"l": "1"},
        "annotations": {"a": "2"},
        "path": "/talk",
    }
    objects = gateway(helm, httpRoute=route, service={"port": 8443})
    (rendered,) = of_kind(objects, "HTTPRoute")
    assert rendered["metadata"]["labels"]["l"] == "1"
    assert rendered["metadata"]["annotations"] == {"a": "2"}
    assert rendered["spec"]["parentRefs"] == route["parentRefs"]
    assert rendered["spec"]["hostnames"] == HOSTS
    (rule,) = rendered["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/talk"}}]
    assert rule["filters"] == route["filters"]
    service = named(objects, "Service", "-gateway")["metadata"]["name"]
    assert rule["backendRefs"] == [{"name": service, "port": 8443}]
    (bare,) = of_kind(gateway(helm, httpRoute={**route, "timeouts": None}), "HTTPRoute")
    assert "timeouts" not in bare["spec"]["rules"][0]


@pytest.mark.parametrize("user", ["gateway", "ingress"])
def test_a_certificate_is_served_by_the_one_that_the_values_name(helm: Any, user: str) -> None:
    certificate = {
        "enabled": True,
        "usedBy": user,
        "issuerRef": {"name": "ca", "kind": "Issuer"},
        "duration": "2160h",
        "renewBefore": "360h",
    }
    ingress = {"enabled": True, "hosts": HOSTS}
    objects = gateway(helm, certificate=certificate, ingress=ingress)
    (rendered,) = of_kind(objects, "Certificate")
    spec = rendered["spec"]
    assert spec["dnsNames"] == HOSTS
    assert spec["issuerRef"] == {"name": "ca", "kind": "Issuer", "group": "cert-manager.io"}
    assert (spec["duration"], spec["renewBefore"]) == ("2160h", "360h")
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    pod = named(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    inner = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}.get(
        "tls"
    )
    outer = of_kind(objects, "Ingress")[0]["spec"].get("tls", [{}])[0].get("secretName")
    secret = spec["secretName"]
    assert secret == "demo-avatar-operator-tls"
    assert (inner, outer) == ((secret, None) if user == "gateway" else (None, secret))


def test_gateways_follow_their_sessions_and_leave_one_at_a_time(helm: Any) -> None:
    scaled = {
        "enabled": True,
        "minReplicas": 3,
        "maxReplicas": 9,
        "targetCPUUtilizationPercentage": 70,
    }
    objects = gateway(helm, autoscaling=scaled)
    deployment = named(objects, "Deployment", "-gateway")
    assert "replicas" not in deployment["spec"]
    (rendered,) = of_kind(objects, "HorizontalPodAutoscaler")
    spec = rendered["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)
    sessions, cpu = spec["metrics"]
    assert sessions["pods"]["metric"] == {"name": "avatar_gateway_sessions"}
    assert sessions["pods"]["target"] == {"type": "AverageValue", "averageValue": "200"}
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    down = spec["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
    assert down["stabilizationWindowSeconds"] == 600


CLASHES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "ranges": (
        {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "gateway.service.loadBalancerSourceRanges is set and gateway.service.type is ClusterIP,"
        " must be LoadBalancer",
    ),
    "policy": (
        {"service": {"externalTrafficPolicy": "Local"}},
        "gateway.service.externalTrafficPolicy is set and gateway.service.type is ClusterIP,"
        " must be NodePort or LoadBalancer",
    ),
    "no-host": ({"ingress": {"enabled": True}}, "gateway.ingress.hosts is empty, must have a host"),
    "no-parent": ({"httpRoute": {"enabled": True}}, "gateway.httpRoute.parentRefs is empty"),
    "no-issuer": (
        {"certificate": {"enabled": True}},
        "gateway.certificate.issuerRef.name is empty",
    ),
    "no-name": (
        {"certificate": {"enabled": True, "issuerRef": {"name": "ca"}}},
        "gateway.certificate.dnsNames is empty",
    ),
    "two-certificates": (
        {
            "certificate": {
                "enabled": True,
                "issuerRef": {"name": "ca"},
                "dnsNames": ["a.example"],
            },
            "tls": {"secretName": "own"},
        },
        "gateway.certificate.usedBy is gateway, whose certificate is the Secret own already",
    ),
    "no-ingress": (
        {
            "certificate": {
                "enabled": True,
                "usedBy": "ingress",
                "issuerRef": {"name": "ca"},
                "dnsNames": ["a.example"],
            }
        },
        "gateway.certificate.usedBy is ingress, must be gateway if gateway.ingress.enabled is",
    ),
    "replicas": (
        {"autoscaling": {"enabled": True, "minReplicas": 11}},
        "gateway.autoscaling.minReplicas is 11, must not be more than"
        " gateway.autoscaling.maxReplicas, which is 10",
    ),
    "no-metric": (
        {"autoscaling": {"enabled": True, "targetSessions": None}},
        "gateway.autoscaling needs targetSessions",
    ),
}


@pytest.mark.parametrize(("values", "sentence"), CLASHES.values(), ids=CLASHES.keys())
def test_values_that_cannot_work_together_are_refused(
    helm: Any, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Exception) as refusal:  # noqa: PT011
        gateway(helm, **values)
    assert sentence in str(refusal.value)


def test_crds_go_only_after_a_cleanup(helm: Any) -> None:
    with pytest.raises(Exception, match=r"crds\.keep is false, must be true if cleanup.enabled is"):
        helm.template({"crds": {"keep": False}})
