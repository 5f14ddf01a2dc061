"""The CRDs describe and bound every field, and the shipped manifests obey them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
Schema = dict[str, Any]
CRDS: dict[str, Schema] = {
    crd["spec"]["names"]["kind"]: crd
    for crd in (yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml"))
}
SCHEMAS: dict[str, Schema] = {
    kind: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, crd in CRDS.items()
}
LARGEST_APPLY = 262_144  # bytes; kubectl's client-side apply stores the object in an annotation
TYPED_BY_KUBERNETES = {".metadata", ".apiVersion", ".kind"}


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Walk a schema: each field with its path, items as `[]`, values of maps as `{}`."""
    children = {f".{name}": child for name, child in schema.get("properties", {}).items()}
    for mark, key in (("[]", "items"), ("{}", "additionalProperties")):
        if isinstance(schema.get(key), dict):
            children[mark] = schema[key]
    for name, child in children.items():
        yield path + name, child
        yield from fields(child, path + name)


ALL = [
    pytest.param(path, field, id=f"{kind}{path}")
    for kind, schema in SCHEMAS.items()
    for path, field in fields(schema)
    if path not in TYPED_BY_KUBERNETES
]


def test_walk_finds_the_fields() -> None:
    paths = {path for path, _ in fields(SCHEMAS["GPUProfile"])}
    assert ".spec.curves[].frameBatchMs[][]" in paths
    assert len(ALL) > 120


@pytest.mark.parametrize(("path", "field"), ALL)
def test_field_is_described_and_bounded(path: str, field: Schema) -> None:
    if not path.endswith(("[]", "{}")):
        assert field.get("description", "").endswith(".")
    bounds = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",)}
    if field.get("type") in bounds:
        assert any(bound in field for bound in bounds[field["type"]])
    if "additionalProperties" in field:
        assert "maxProperties" in field
    if field.get("type") in ("integer", "number") and path.startswith(".spec"):
        assert {"minimum", "maximum"} <= field.keys() or "enum" in field or "format" in field


@pytest.mark.parametrize("kind", CRDS)
def test_rules_speak_in_words(kind: str) -> None:
    rules = [
        rule
        for _, field in [("", SCHEMAS[kind]), *fields(SCHEMAS[kind])]
        for rule in field.get("x-kubernetes-validations", [])
    ]
    assert len(rules) >= 8
    assert all(rule["message"].strip() and "messageExpression" not in rule for rule in rules)


@pytest.mark.parametrize("path", sorted((ROOT / "crds").glob("*.yaml")), ids=lambda p: p.name)
def test_crd_can_be_applied_from_the_client(path: Path) -> None:
    assert len(path.read_bytes()) < LARGEST_APPLY / 2


def test_scale_subresource_and_names_are_those_of_the_contract() -> None:
    version = CRDS["AvatarService"]["spec"]["versions"][0]
    assert version["name"] == "v1alpha1"
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    names = {kind: crd["spec"]["names"] for kind, crd in CRDS.items()}
    assert names["AvatarService"]["shortNames"] == ["avs"]
    assert names["AvatarService"]["categories"] == ["all", "musetalk"]
    # kubectl prefers a category to a resource: `delete avatars --all` would delete the profiles.
    words = {word for each in names.values() for word in (each["plural"], each["singular"])}
    assert words.isdisjoint(word for each in names.values() for word in each["categories"])
    assert names["GPUProfile"]["shortNames"] == ["gpup"]
    assert names["AvatarTenant"]["shortNames"] == ["avt"]
    scopes = {kind: crd["spec"]["scope"] for kind, crd in CRDS.items()}
    assert scopes == {
        "Avatar": "Namespaced",
        "AvatarService": "Namespaced",
        "AvatarTenant": "Cluster",
        "GPUProfile": "Cluster",
    }


def strict(schema: Schema) -> Schema:
    """Return a JSON schema that refuses unknown fields, as strict field validation does."""
    result = {
        key: value
        for key, value in schema.items()
        if key not in ("properties", "items", "additionalProperties", "exclusiveMinimum")
        and not key.startswith("x-")
    }
    if schema.get("nullable"):
        result["type"] = [schema["type"], "null"]
    if schema.get("exclusiveMinimum"):
        result["exclusiveMinimum"] = result.pop("minimum")
    if "properties" in schema:
        result["properties"] = {n: strict(child) for n, child in schema["properties"].items()}
        result["additionalProperties"] = "x-kubernetes-preserve-unknown-fields" in schema
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = strict(schema[key])
    return result


def documents() -> Iterator[Any]:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            yield pytest.param(document, id=f"{path.name}-{number}")
    shipped = yaml.safe_load((ROOT / "charts/avatar-operator/gpu-profiles.yaml").read_text())
    for name, spec in shipped.items():
        yield pytest.param({"kind": "GPUProfile", "metadata": {}, "spec": spec}, id=name)


@pytest.mark.parametrize("document", list(documents()))
def test_shipped_manifest_fits_the_schema(document: Schema) -> None:
    schema = strict(SCHEMAS[document["kind"]]["properties"]["spec"])
    jsonschema.validate(document["spec"], schema)


def test_strict_schema_refuses_a_misspelt_field() -> None:
    schema = strict(SCHEMAS["AvatarService"]["properties"]["spec"])
    with pytest.raises(jsonschema.ValidationError, match="gpuClass"):
        jsonschema.validate({"placement": {"gpuClass": "l4"}}, schema)


def test_first_example_is_the_concierge() -> None:
    document = yaml.safe_load((ROOT / "examples/avatarservice.yaml").read_text())
    assert document["metadata"] == {"name": "concierge"}  # the namespace is the user's
    placement = {"gpuClasses": ["rtx-4090", "a100-80gb", "h100-80gb"], "strategy": "preferred"}
    assert document["spec"]["placement"] == placement
    assert document["spec"]["autoscaling"]["minReplicas"] == 1
    assert not {"model", "avatarSource"} & document["spec"].keys()
