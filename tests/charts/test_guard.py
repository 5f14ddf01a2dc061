"""The admission policy over pods with sessions: whom it lets through, and where it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from avatar_operator.core.resources import annotations as annotation_rules

pytestmark = pytest.mark.slow
Manifest = dict[str, Any]
KINDS = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def guard(objects: list[Manifest]) -> dict[str, Manifest]:
    return policies(objects, "-guard")


def policies(objects: list[Manifest], suffix: str) -> dict[str, Manifest]:
    return {
        item["kind"]: item
        for item in objects
        if item["kind"] in KINDS and item["metadata"]["name"].endswith(suffix)
    }


def test_only_live_pods_are_guarded_and_faults_let_through(defaults: list[Manifest]) -> None:
    spec = guard(defaults)["ValidatingAdmissionPolicy"]["spec"]
    assert spec["failurePolicy"] == "Ignore"
    constraints = spec["matchConstraints"]
    assert constraints["objectSelector"]["matchLabels"] == {"avatar.musetalk.io/live": "true"}
    assert constraints["resourceRules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE", "DELETE"],
            "resources": ["pods"],
        }
    ]
    assert "namespaceSelector" not in constraints


def test_the_binding_enforces_the_policy(defaults: list[Manifest]) -> None:
    found = guard(defaults)
    name = found["ValidatingAdmissionPolicy"]["metadata"]["name"]
    binding = found["ValidatingAdmissionPolicyBinding"]["spec"]
    assert binding == {"policyName": name, "validationActions": ["Deny"]}


def test_the_operator_and_the_groups_named_are_let_through(helm: Any) -> None:
    values = {
        "guard": {"breakGlassGroups": ["sre", "oncall:emea"]},
        "operator": {"serviceAccount": {"name": "mine"}},
    }
    policy = guard(helm.template(values))["ValidatingAdmissionPolicy"]
    validation = policy["spec"]["validations"][0]
    assert '"system:serviceaccount:avatars:mine"' in validation["expression"]
    assert 'group in ["sre","oncall:emea"]' in validation["expression"]


def test_a_release_for_some_namespaces_guards_these_only(helm: Any) -> None:
    objects = helm.template({"operator": {"watchNamespaces": ["acme", "globex"]}})
    constraints = guard(objects)["ValidatingAdmissionPolicy"]["spec"]["matchConstraints"]
    (expression,) = constraints["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["acme", "globex"]


def test_the_guard_can_be_left_out(helm: Any) -> None:
    assert guard(helm.template({"guard": {"enabled": False}})) == {}


@pytest.mark.parametrize("values", [{}, {"guard": {"limitOperator": None}}], ids=["new", "reused"])
def test_the_operator_is_restricted_to_its_own_objects(helm: Any, values: Manifest) -> None:
    values = {"operator": {"serviceAccount": {"name": "mine"}}, **values}
    found = policies(helm.template(values), "-operator-limits")
    policy, binding = found["ValidatingAdmissionPolicy"], found["ValidatingAdmissionPolicyBinding"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    (condition,) = policy["spec"]["matchConditions"]
    expected = 'request.userInfo.username == "system:serviceaccount:avatars:mine"'
    assert condition["expression"] == expected
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    covered = {resource for rule in rules for resource in rule["resources"]}
    assert {"secrets", "pods", "poddisruptionbudgets", "jobs"} <= covered
    operations = {resource: set(r["operations"]) for r in rules for resource in r["resources"]}
    assert operations.pop("avatars") == {"UPDATE"}
    assert all(each == {"CREATE", "UPDATE", "DELETE"} for each in operations.values())
    assert binding["spec"] == {
        "policyName": policy["metadata"]["name"],
        "validationActions": ["Deny"],
    }


def test_the_restriction_of_the_operator_can_be_left_out(helm: Any) -> None:
    objects = helm.template({"guard": {"limitOperator": False}})
    assert policies(objects, "-operator-limits") == {}


def test_the_policy_knows_the_annotations_of_services(defaults: list[Manifest]) -> None:
    spec = policies(defaults, "operator-annotations")["ValidatingAdmissionPolicy"]["spec"]
    (wrong,) = (each["expression"] for each in spec["variables"] if each["name"] == "wrong")
    known = json.dumps(list(annotation_rules.SERVICE_FLAGS), separators=(",", ":"))
    assert f"name in {known} &&" in wrong
    for suffix in ("operator-annotations", "pod-annotations"):
        binding = policies(defaults, suffix)["ValidatingAdmissionPolicyBinding"]["spec"]
        assert binding["validationActions"] == ["Warn"]
