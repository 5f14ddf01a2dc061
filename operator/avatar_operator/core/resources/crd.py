"""Compares a CustomResourceDefinition with the one that this operator was written for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.resources.fields import Fields

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body


def lacking(wanted: Body, installed: Body) -> tuple[str, ...]:
    """Return what `wanted` describes and `installed` does not, by path.

    The API server drops a field that it does not know, and refuses a value.
    """
    here, there = _schema(wanted), _schema(installed)
    if there is None:
        return (f"version {names.VERSION}",)
    return tuple(_lacking(here or {}, there, ""))


def abandoned(wanted: Body, installed: Body) -> tuple[str, ...]:
    """Return versions that objects are stored in, and that `wanted` has no more."""
    known = {version.text("name") for version in _versions(wanted)}
    stored = Fields(installed, "", []).child("status").texts("storedVersions")
    return tuple(version for version in stored if version not in known)


def is_established(installed: Body) -> bool:
    """Return whether the API server serves the kind."""
    conditions = Fields(installed, "", []).child("status").children("conditions")
    return any(
        (condition.text("type"), condition.text("status")) == ("Established", "True")
        for condition in conditions
    )


def _versions(definition: Body) -> Iterator[Fields]:
    return Fields(definition, "", []).child("spec").children("versions")


def _schema(definition: Body) -> Mapping[str, object] | None:
    for version in _versions(definition):
        if version.text("name") == names.VERSION and version.flag("served", False):
            return version.child("schema").fragment("openAPIV3Schema")
    return None


def _lacking(
    wanted: Mapping[str, object], installed: Mapping[str, object], path: str
) -> Iterator[str]:
    here, there = Fields(wanted, "", []), Fields(installed, "", [])
    known = there.items("enum")
    if known:
        yield from (f"{path}: {value}" for value in here.items("enum") if value not in known)
    theirs = there.fragment("properties")
    for name, child in here.fragment("properties").items():
        where = f"{path}.{name}".lstrip(".")
        if name in theirs:
            yield from _lacking(_mapping(child), _mapping(theirs[name]), where)
        elif not there.flag("x-kubernetes-preserve-unknown-fields", False):
            yield where
    for mark, key in (("[]", "items"), ("{}", "additionalProperties")):
        child = here.raw(key)
        if isinstance(child, Mapping):  # it may be a flag, too
            yield from _lacking(child, _mapping(there.raw(key)), path + mark)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
