"""The admission policy over pods with sessions: whom it lets through, and where it holds."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow
Manifest = dict[str, Any]
KINDS = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def guard(objects: list[Manifest]) -> dict[str, Manifest]:
    return {item["kind"]: item for item in objects if item["kind"] in KINDS}


def test_only_live_pods_are_guarded_and_faults_let_through(defaults: list[Manifest]) -> None:
    spec = guard(defaults)["ValidatingAdmissionPolicy"]["spec"]
    assert spec["failurePolicy"] == "Ignore"
    constraints = spec["matchConstraints"]
    assert constraints["objectSelector"]["matchLabels"] == {"avatar.musetalk.io/live": "true"}
    assert constraints["resourceRules"] == [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]}
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
    (validation,) = policy["spec"]["validations"]
    assert '"system:serviceaccount:avatars:mine"' in validation["expression"]
    assert 'group in ["sre","oncall:emea"]' in validation["expression"]


def test_a_release_for_some_namespaces_guards_these_only(helm: Any) -> None:
    objects = helm.template({"operator": {"watchNamespaces": ["acme", "globex"]}})
    constraints = guard(objects)["ValidatingAdmissionPolicy"]["spec"]["matchConstraints"]
    (expression,) = constraints["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["acme", "globex"]


def test_the_guard_can_be_left_out(helm: Any) -> None:
    assert guard(helm.template({"guard": {"enabled": False}})) == {}
