"""Compares an installed CustomResourceDefinition with the one of this release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from avatar_contracts.fields import Fields
from avatar_operator import names

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body


def missing_fields(required: Body, installed: Body) -> tuple[str, ...]:
    """Return the paths of the fields and enum values in `required` that `installed` lacks.

    The API server drops a field that it does not know, and rejects an unknown enum value.
    """
    required_schema, installed_schema = _schema(required), _schema(installed)
    if installed_schema is None:
        return (f"version {names.VERSION}",)
    return tuple(_missing(required_schema or {}, installed_schema, ""))


def removed_versions(required: Body, installed: Body) -> tuple[str, ...]:
    """Return the versions that objects are stored in and that `required` no longer has."""
    known = {version.text("name") for version in _versions(required)}
    stored = Fields(installed, "", []).child("status").texts("storedVersions")
    return tuple(version for version in stored if version not in known)


def is_established(installed: Body) -> bool:
    """Return whether the API server serves the kind."""
    conditions = Fields(installed, "", []).child("status").children("conditions")
    return any(
        (condition.text("type"), condition.text("status")) == ("Established", "True")
        for condition in conditions
    )


def _versions(crd: Body) -> Iterator[Fields]:
    return Fields(crd, "", []).child("spec").children("versions")


def _schema(crd: Body) -> Mapping[str, object] | None:
    for version in _versions(crd):
        if version.text("name") == names.VERSION and version.flag("served", False):
            return version.child("schema").fragment("openAPIV3Schema")
    return None


def _missing(
    required: Mapping[str, object], installed: Mapping[str, object], path: str
) -> Iterator[str]:
    here, there = Fields(required, "", []), Fields(installed, "", [])
    known = there.items("enum")
    if known:
        yield from (f"{path}: {value}" for value in here.items("enum") if value not in known)
    installed_properties = there.fragment("properties")
    for name, child in here.fragment("properties").items():
        child_path = f"{path}.{name}".lstrip(".")
        if name in installed_properties:
            yield from _missing(_mapping(child), _mapping(installed_properties[name]), child_path)
        elif not there.flag("x-kubernetes-preserve-unknown-fields", False):
            yield child_path
    for mark, key in (("[]", "items"), ("{}", "additionalProperties")):
        child = here.raw(key)
        if isinstance(child, Mapping):  # additionalProperties may also be a boolean
            yield from _missing(child, _mapping(there.raw(key)), path + mark)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
