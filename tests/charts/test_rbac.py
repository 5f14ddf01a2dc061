"""The components may do what they need, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
# Namespace ("*" for the cluster), group/resource, verb. A rule with resourceNames gives one grant
# for each name, as group/resource[name].
Grant = tuple[str, str, str]

SEEN = ("nodes", "pods", "namespaces")
GATEWAY = {
    ("*", resource, verb)
    for resource in (
        "/pods",
        "/namespaces",
        "avatar.musetalk.io/avatarservices",
        "avatar.musetalk.io/avatartenants",
    )
    for verb in ("list", "watch")
}
# The list at the top of avatar_operator/cluster.py.
OPERATOR = {
    *(("*", f"/{resource}", verb) for resource in SEEN for verb in ("list", "watch")),
    *(
        ("*", resource, verb)
        for resource in (
            "apiextensions.k8s.io/customresourcedefinitions",
            "avatar.musetalk.io/gpuprofiles",
            "avatar.musetalk.io/avatartenants",
            "avatar.musetalk.io/avatarservices",
            "avatar.musetalk.io/avatars",
            "batch/jobs",
            "resource.k8s.io/resourceslices",
            "resource.k8s.io/resourceclaims",
            "resource.k8s.io/deviceclasses",
        )
        for verb in ("list", "watch")
    ),
    *(("*", "resource.k8s.io/resourceclaimtemplates", verb) for verb in ("get", "create", "patch")),
    ("*", "avatar.musetalk.io/avatarservices/status", "patch"),
    ("*", "avatar.musetalk.io/gpuprofiles/status", "patch"),
    ("*", "avatar.musetalk.io/avatartenants/status", "patch"),
    ("*", "avatar.musetalk.io/avatars/status", "patch"),
    ("*", "avatar.musetalk.io/avatars/finalizers", "update"),
    ("*", "avatar.musetalk.io/avatars", "patch"),
    *(("*", "batch/jobs", verb) for verb in ("create", "delete")),
    ("*", "avatar.musetalk.io/avatarservices/finalizers", "update"),
    ("*", "avatar.musetalk.io/avatarservices", "get"),
    *(("*", "/pods", verb) for verb in ("create", "patch", "delete")),
    *(("*", "policy/poddisruptionbudgets", verb) for verb in ("list", "watch", "create", "patch")),
    ("*", "/secrets", "create"),
    ("*", "/secrets", "patch"),
    ("*", "/events", "create"),
    ("*", "coordination.k8s.io/leases", "get"),  # of another installation that manages services
    ("*", "scheduling.k8s.io/priorityclasses", "list"),
    # resourceNames cannot restrict create; every other verb is restricted to one object.
    ("avatars", "coordination.k8s.io/leases", "create"),
    ("avatars", "/secrets", "create"),
    *(
        ("avatars", "coordination.k8s.io/leases[demo-avatar-operator-operator]", verb)
        for verb in ("get", "list", "watch", "patch")
    ),
    ("avatars", "/secrets[demo-avatar-operator-control]", "get"),
    ("avatars", "/secrets[demo-avatar-operator-gateway-key]", "patch"),
}
CRDS = "apiextensions.k8s.io/customresourcedefinitions"
NO_NOTICE = {"cleanup": {"notice": False}}
HOOK = {
    ("*", CRDS, "list"),
    ("*", CRDS, "create"),
    ("*", f"{CRDS}[avatars.avatar.musetalk.io]", "patch"),
    ("*", f"{CRDS}[avatarservices.avatar.musetalk.io]", "patch"),
    ("*", f"{CRDS}[avatartenants.avatar.musetalk.io]", "patch"),
    ("*", f"{CRDS}[gpuprofiles.avatar.musetalk.io]", "patch"),
}


def grants(objects: list[Manifest], component: str) -> set[Grant]:
    """Return what the rules of a component allow, one grant for each name of resourceNames."""
    roles = [
        item
        for item in objects
        if item["kind"] in ("Role", "ClusterRole")
        and item["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return {
        (role["metadata"].get("namespace", "*"), f"{group}/{resource}{name}", verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in names(rule)
        for verb in rule["verbs"]
    }


def names(rule: Manifest) -> list[str]:
    """Return the names that restrict a rule, each in brackets, or one empty string.

    An empty list of resourceNames restricts nothing, as in the API server.
    """
    return [f"[{name}]" for name in rule.get("resourceNames") or []] or [""]


@pytest.mark.parametrize("namespaces", [[], ["acme", "globex"]], ids=["cluster", "namespaced"])
def test_no_rule_has_a_wildcard(helm: Any, namespaces: list[str]) -> None:
    objects = helm.template({"operator": {"watchNamespaces": namespaces}})
    everything = grants(objects, "operator") | grants(objects, "gateway")
    assert len(everything) >= 20
    assert [g for g in everything if "*" in g[1] or "*" in g[2]] == []


def test_gateway_reads_services_pods_and_tenants_only(defaults: list[Manifest]) -> None:
    assert grants(defaults, "gateway") == GATEWAY


def test_gateway_reads_the_secrets_of_the_namespace_for_keys_only(helm: Any) -> None:
    tenants = {"keysNamespace": "avatar-keys"}
    objects = helm.template({"gateway": {"tenants": tenants}})
    keys = {("avatar-keys", "/secrets", verb) for verb in ("list", "watch")}
    assert grants(objects, "gateway") == GATEWAY | keys
    assert not [item for item in objects if item["kind"] == "Namespace"]
    (container,) = (
        item["spec"]["template"]["spec"]["containers"][0]
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("-gateway")
    )
    variable = {"name": "AVATAR_GATEWAY_KEYS_NAMESPACE", "value": "avatar-keys"}
    assert variable in container["env"]

    objects = helm.template({"gateway": {"tenants": tenants | {"createKeysNamespace": True}}})
    (namespace,) = (item for item in objects if item["kind"] == "Namespace")
    assert namespace["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_gateway_without_tenants_has_no_right_to_them(helm: Any) -> None:
    objects = helm.template({"gateway": {"tenants": {"enabled": False, "keysNamespace": "k"}}})
    assert {what for _, what, _ in grants(objects, "gateway")} == {
        "/pods",
        "avatar.musetalk.io/avatarservices",
    }


def test_the_namespace_of_the_release_is_not_for_keys(helm: Any) -> None:
    with pytest.raises(Exception, match="must not be the namespace of the release"):
        helm.template({"gateway": {"tenants": {"keysNamespace": "avatars"}}})


def test_operator_may_do_what_its_calls_need(defaults: list[Manifest]) -> None:
    assert grants(defaults, "operator") == OPERATOR


def test_nobody_may_list_secrets(defaults: list[Manifest]) -> None:
    everything = grants(defaults, "operator") | grants(defaults, "gateway")
    secrets = {verb for _, what, verb in everything if what.partition("[")[0] == "/secrets"}
    assert secrets == {"get", "create", "patch"}
    read = {what for _, what, verb in everything if "/secrets" in what and verb == "get"}
    assert read == {"/secrets[demo-avatar-operator-control]"}


def test_named_namespaces_bound_every_write(helm: Any) -> None:
    objects = helm.template({"operator": {"watchNamespaces": ["acme", "globex"]}})
    reads = {"get", "list", "watch"}
    wide = {g for g in grants(objects, "operator") if g[0] == "*" and g[2] not in reads}
    kinds = ("gpuprofiles", "avatartenants")  # they have no namespace
    assert wide == {("*", f"avatar.musetalk.io/{kind}/status", "patch") for kind in kinds}
    everywhere = {g[1] for g in grants(objects, "gateway") if g[0] == "*"}
    assert everywhere == {
        "/namespaces",
        "avatar.musetalk.io/avatartenants",
    }  # they have no namespace
    assert {g[0] for g in grants(objects, "gateway")} == {"*", "acme", "globex"}
    assert ("acme", "/pods", "create") in grants(objects, "operator")
    assert {g[0] for g in grants(objects, "operator")} == {
        "*", "acme", "globex", "avatars", "default",
    }  # fmt: skip
    # The API server accepts Events about AvatarTenants only there.
    events = {("default", "/events", "create")}
    assert {g for g in grants(objects, "operator") if g[0] == "default"} == events
    objects = helm.template({"operator": {"watchNamespaces": ["default"]}})
    names = [item["metadata"]["name"] for item in objects if item["kind"] == "Role"]
    assert not [name for name in names if name.endswith("-events")]


@pytest.mark.parametrize(
    "values",
    [
        {"fullnameOverride": "faces"},
        {"fullnameOverride": "faces", "operator": {"watchNamespaces": ["acme"]}},
    ],
    ids=["cluster", "namespaced"],
)
def test_named_grants_follow_the_objects_that_the_chart_names(
    helm: Any, values: dict[str, Any]
) -> None:
    objects = helm.template(values)
    (lease,) = (item["metadata"]["name"] for item in objects if item["kind"] == "Lease")
    (operator,) = (
        item["spec"]["template"]["spec"]["containers"][0]
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("-operator")
    )
    env = {variable["name"]: variable.get("value") for variable in operator["env"]}
    assert {grant for grant in grants(objects, "operator") if "[" in grant[1]} == {
        ("avatars", f"/secrets[{env['AVATAR_CONTROL_SECRET']}]", "get"),
        ("avatars", f"/secrets[{env['AVATAR_GATEWAY_SECRET']}]", "patch"),
        *(
            ("avatars", f"coordination.k8s.io/leases[{lease}]", verb)
            for verb in ("get", "list", "watch", "patch")
        ),
    }
    assert env["AVATAR_LEASE"] == lease


def test_rights_go_to_the_components_and_the_hook_only(defaults: list[Manifest]) -> None:
    subjects = {
        (s["kind"], s["namespace"], s["name"])
        for item in defaults
        if item["kind"].endswith("RoleBinding")
        for s in item["subjects"]
    }
    assert subjects == {
        ("ServiceAccount", "avatars", "demo-avatar-operator-operator"),
        ("ServiceAccount", "avatars", "demo-avatar-operator-gateway"),
        ("ServiceAccount", "avatars", "demo-avatar-operator-crds"),
        ("ServiceAccount", "avatars", "demo-avatar-operator-cleanup"),
    }


def test_hook_may_upgrade_our_crds_and_goes_with_all_its_rights(defaults: list[Manifest]) -> None:
    hook = [o for o in defaults if o["metadata"]["name"] == "demo-avatar-operator-crds"]
    assert {o["kind"] for o in hook} == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Job",
    }
    for item in hook:
        annotations = item["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-upgrade"
        assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
    assert grants(hook, "crds") == HOOK
    crds = [yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")]
    patched = {what for _, what, verb in HOOK if verb == "patch"}
    assert patched == {f"{CRDS}[{crd['metadata']['name']}]" for crd in crds}


def test_crds_may_be_kept_by_other_means(helm: Any) -> None:
    objects = helm.template({"crds": {"upgrade": False}, **NO_NOTICE})
    assert [o for o in objects if o["kind"] == "Job"] == []
    assert grants(objects, "crds") == set()


def test_values_of_a_release_before_the_hook_still_render_it(helm: Any) -> None:
    objects = helm.template({"crds": None, **NO_NOTICE})  # as --reuse-values gives them
    assert [o["kind"] for o in objects if o["kind"] == "Job"] == ["Job"]


def cleanup_hooks(objects: list[Manifest]) -> dict[str, Manifest]:
    """Return the container of each Job of an uninstall, by the hook."""
    return {
        o["metadata"]["annotations"]["helm.sh/hook"]: o["spec"]["template"]["spec"]["containers"][0]
        for o in objects
        if o["kind"] == "Job"
        and "cleanup" in o["metadata"]["labels"]["app.kubernetes.io/component"]
    }


def test_the_notice_may_only_list_and_the_cleanup_may_delete(helm: Any) -> None:
    group = "avatar.musetalk.io"
    listed = {("*", f"{group}/avatarservices", "list"), ("*", f"{group}/avatars", "list")}
    listed |= {("*", "/pods", "list")}
    assert grants(helm.template(), "cleanup") == listed
    assert grants(helm.template(NO_NOTICE), "cleanup") == set()
    assert cleanup_hooks(helm.template())["post-delete"]["command"] == [
        "avatar-operator",
        "uninstall",
    ]
    values = {
        "cleanup": {"enabled": True},
        "crds": {"keep": False},
        "operator": {"watchNamespaces": ["acme"]},
    }
    objects = helm.template(values)
    crds = {(where, what, verb) for where, what, verb in grants(objects, "cleanup") if where == "*"}
    assert crds == {("*", what, "delete") for _, what, v in HOOK if v == "patch"}
    assert grants(objects, "cleanup") - crds == {
        *(
            ("acme", f"{group}/{kind}", verb)
            for kind in ("avatarservices", "avatars")
            for verb in ("list", "delete")
        ),
        ("acme", "/pods", "list"),
    }
    hooks = cleanup_hooks(objects)
    assert hooks["pre-delete"]["args"] == ["--cleanup", "--deadline-s=240"]
    assert hooks["post-delete"]["command"] == ["avatar-operator", "remove-crds"]


ROLES = ("view", "edit", "admin")


def test_users_get_their_rights_through_the_roles_of_kubernetes(defaults: list[Manifest]) -> None:
    roles = {
        item["metadata"]["name"].removeprefix("demo-avatar-operator-"): item
        for item in defaults
        if item["kind"] == "ClusterRole"
        and item["metadata"]["labels"].get("app.kubernetes.io/component") == "users"
    }
    assert set(roles) == {"view", "edit"}
    aggregated = {
        name: {
            role
            for role in ROLES
            if item["metadata"]["labels"].get(f"rbac.authorization.k8s.io/aggregate-to-{role}")
            == "true"
        }
        for name, item in roles.items()
    }
    assert aggregated == {"view": set(ROLES), "edit": {"edit", "admin"}}
    group = "avatar.musetalk.io"
    verbs = {(what, verb) for _, what, verb in grants(defaults, "users")}
    writes = {what for what, verb in verbs if verb not in ("get", "list", "watch")}
    assert writes == {
        f"{group}/{what}" for what in ("avatars", "avatarservices", "avatarservices/scale")
    }
    assert {(f"{group}/gpuprofiles", "list"), (f"{group}/avatarservices", "watch")} <= verbs


@pytest.mark.parametrize(
    ("values", "count"),
    [({}, 2), ({"userRoles": None}, 2), ({"userRoles": {"enabled": False}}, 0)],
    ids=["default", "reused", "off"],
)
def test_rights_of_users_can_be_left_out(helm: Any, values: dict[str, Any], count: int) -> None:
    objects = helm.template(values)
    found = [
        item
        for item in objects
        if item["kind"] == "ClusterRole"
        and item["metadata"]["labels"].get("app.kubernetes.io/component") == "users"
    ]
    assert len(found) == count
