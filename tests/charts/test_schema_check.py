"""The check of renderings against a Kubernetes release finds what the release does not know."""

from __future__ import annotations

from typing import Any, Final

from localcluster.bench import chart

DOCUMENT: Final[dict[str, Any]] = {
    "definitions": {
        "Service": {
            "type": "object",
            "properties": {
                "apiVersion": {},
                "kind": {},
                "metadata": {},
                "spec": {"$ref": "#/definitions/Spec"},
            },
            "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Service"}],
        },
        "Spec": {
            "type": "object",
            "properties": {"port": {"$ref": f"#/definitions/{chart.INT_OR_STRING}"}},
        },
        chart.INT_OR_STRING: {"type": "string", "format": "int-or-string"},
    }
}


def faults(kind: str = "Service", version: str = "v1", **spec: Any) -> list[str]:
    item = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    return list(chart.faults(DOCUMENT, [item]))


def test_known_fields_are_accepted() -> None:
    assert faults(port=80) == faults(port="http") == []


def test_an_unknown_field_and_a_wrong_type_are_named() -> None:
    (unknown,) = faults(ports=80)
    assert unknown.startswith("Service a: $.spec: ")
    assert "'ports' was unexpected" in unknown
    assert "$.spec.port: " in faults(port=[])[0]


def test_an_unknown_kind_is_a_fault_and_one_of_another_project_is_not() -> None:
    assert faults(kind="Ingress") == ["Ingress a: v1 is unknown"]
    assert faults(kind="HTTPRoute", version="gateway.networking.k8s.io/v1") == []
