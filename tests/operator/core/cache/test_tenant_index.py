"""Which services belong to a tenant: by access, by the labels, and by `spec.tenants`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.resources.tenant import parse_tenant
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make


@pytest.fixture
def store(make: Make) -> Store:
    store = Store([])
    store.observe(Kind.SERVICES, service(make, "s1", "acme", "concierge", team="a"))
    store.observe(Kind.SERVICES, service(make, "s2", "globex", "guide", team="b"))
    return store


def service(
    make: Make, uid: str, namespace: str, name: str, *, tenants: Any = (), **labels: str
) -> Body:
    body = make.service_body(**({"tenants": list(tenants)} if tenants else {}))
    found = {"uid": uid, "namespace": namespace, "name": name, "labels": labels}
    body["metadata"] |= found
    body["metadata"]["resourceVersion"] = body["metadata"].get("resourceVersion", "5")
    return body


def owner(store: Store, uid: str) -> str | None:
    tenant = store.tenants.owner(uid)
    return None if tenant is None else tenant.name


def test_a_service_of_one_tenant_belongs_to_it(store: Store, make: Make) -> None:
    assert owner(store, "s1") is None
    assert store.observe(Kind.TENANTS, make.tenant_body()).tenants
    assert (owner(store, "s1"), owner(store, "s2")) == ("acme", None)
    assert store.tenants.owned("acme") == ("s1",)


def test_a_service_that_two_tenants_may_use_belongs_to_none(store: Store, make: Make) -> None:
    store.observe(Kind.TENANTS, make.tenant_body())
    store.observe(Kind.TENANTS, make.tenant_body("globex"))
    assert owner(store, "s1") is None
    assert store.tenants.usable("acme") == store.tenants.usable("globex") == {"s1"}
    body = service(make, "s1", "acme", "concierge", tenants=["globex"])
    body["metadata"]["resourceVersion"] = "9"
    store.observe(Kind.SERVICES, body)
    assert owner(store, "s1") == "globex"
    assert store.tenants.usable("acme") == set()
    store.observe_deletion(Kind.TENANTS, "tenant-globex")
    assert owner(store, "s1") is None


def test_labels_of_namespaces_and_of_services_select(store: Store, make: Make) -> None:
    access = {
        "namespaceSelector": {"matchLabels": {"plan": "paid"}},
        "serviceSelector": {
            "matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]
        },
    }
    store.observe(Kind.TENANTS, make.tenant_body(access=access))
    assert store.tenants.needs_namespaces()
    assert (owner(store, "s1"), owner(store, "s2")) == (None, None)
    for name in ("acme", "globex"):
        assert store.observe(Kind.NAMESPACES, make.namespace_body(name, plan="paid")).tenants
    assert (owner(store, "s1"), owner(store, "s2")) == (None, "acme")
    same = make.namespace_body("globex", version="8", plan="paid")
    assert not store.observe(Kind.NAMESPACES, same).tenants
    store.observe_deletion(Kind.NAMESPACES, "namespace-globex")
    assert owner(store, "s2") is None


def test_a_status_changes_nothing_that_plans_depend_on(store: Store, make: Make) -> None:
    store.observe(Kind.TENANTS, make.tenant_body())
    body = {**make.tenant_body(version="8"), "status": {"sessions": 3}}
    assert not store.observe(Kind.TENANTS, body).tenants
    (known,) = store.tenants.bodies.values()
    assert known.status == {"sessions": 3}


def test_a_wrong_tenant_may_use_nothing_and_is_reported(store: Store, make: Make) -> None:
    store.observe(Kind.TENANTS, make.tenant_body())
    impact = store.observe(Kind.TENANTS, make.tenant_body(version="8", weight=0))
    assert "spec.weight is 0, must be a whole number from 1 to 1000" in impact.fault
    assert owner(store, "s1") is None


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"access": {}}, "spec.access must name at least one namespace"),
        ({"limits": {"costPerHour": "0"}}, "spec.limits.costPerHour"),
        ({"limits": {"costPerHour": 3}}, "spec.limits.costPerHour"),
        ({"limits": {"gpus": -1}}, "spec.limits.gpus"),
        (
            {"access": {"namespaceSelector": {"matchExpressions": [{"key": "a"}]}}},
            "must have a key and an operator",
        ),
    ],
    ids=["no access", "no cost", "cost as number", "negative", "no operator"],
)
def test_a_wrong_field_is_named(make: Make, spec: Any, fault: str) -> None:
    with pytest.raises(InvalidResource, match=fault):
        parse_tenant(make.tenant_body(**spec))


def test_the_name_of_a_tenant_is_a_label(make: Make) -> None:
    with pytest.raises(InvalidResource, match=r"metadata\.name"):
        parse_tenant(make.tenant_body("Acme"))
