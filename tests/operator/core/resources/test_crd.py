from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources import crd
from avatar_operator.kube import crds

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICES: dict[str, Any]
PROFILES: dict[str, Any]
_, SERVICES, _, PROFILES = crds.bundled()


def fields(definition: dict[str, Any]) -> dict[str, Any]:
    properties = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return dict(properties["spec"]["properties"])


def test_a_definition_lacks_nothing_of_itself() -> None:
    assert crd.missing_fields(SERVICES, SERVICES) == crd.missing_fields(PROFILES, PROFILES) == ()


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "spec.placement.whenFull": lambda spec: spec["placement"]["properties"].pop("whenFull"),
    "spec.objective: latency": lambda spec: spec["objective"]["enum"].remove("latency"),
    "spec.placement.tolerations[].key": lambda spec: spec["placement"]["properties"]["tolerations"][
        "items"
    ]["properties"].pop("key"),
}


@pytest.mark.parametrize(("path", "change"), CHANGES.items(), ids=CHANGES.keys())
def test_what_an_older_definition_lacks_is_named(
    path: str, change: Callable[[dict[str, Any]], object]
) -> None:
    older = copy.deepcopy(SERVICES)
    change(fields(older))
    assert crd.missing_fields(SERVICES, older) == (path,)
    assert crd.missing_fields(older, SERVICES) == ()


def test_a_whole_branch_is_named_once() -> None:
    older = copy.deepcopy(PROFILES)
    older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].pop("status")
    assert crd.missing_fields(PROFILES, older) == ("status",)


def test_fields_that_are_kept_unknown_are_not_lacking() -> None:
    older = copy.deepcopy(SERVICES)
    template = fields(older)["template"]
    template["properties"].clear()
    template["x-kubernetes-preserve-unknown-fields"] = True
    assert crd.missing_fields(SERVICES, older) == ()


def test_a_version_that_is_not_served_is_lacking() -> None:
    older = copy.deepcopy(SERVICES)
    older["spec"]["versions"][0]["served"] = False
    assert crd.missing_fields(SERVICES, older) == ("version v1alpha1",)


def test_versions_that_objects_are_stored_in_are_not_given_up() -> None:
    stored = {**SERVICES, "status": {"storedVersions": ["v1alpha0", "v1alpha1"]}}
    assert crd.removed_versions(SERVICES, stored) == ("v1alpha0",)
    assert crd.removed_versions(SERVICES, SERVICES) == ()


def test_a_kind_is_established_when_its_condition_says_so() -> None:
    for status in ("True", "False"):
        condition = {"type": "Established", "status": status}
        known = {**SERVICES, "status": {"conditions": [condition]}}
        assert crd.is_established(known) is (status == "True")
    assert not crd.is_established({})
