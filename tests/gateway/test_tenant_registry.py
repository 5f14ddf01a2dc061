"""What the gateway knows of tenants, and what it decides by it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from avatar_gateway.core import api_keys
from avatar_gateway.core.tenants import (
    PLATFORM,
    ClientSecretUse,
    Credential,
    CredentialKind,
    Principal,
)
from avatar_gateway.tenant_registry import ServiceAccess, TenantRegistry

ACCESS = {"namespaces": ["acme"]}
SERVICE = "acme/concierge"
OPEN = ServiceAccess({}, frozenset())


def key_of(number: int) -> tuple[str, str]:
    id_bytes = bytes(number >> 5 * place & 31 for place in range(16))
    return api_keys.new_key(number.to_bytes(32), id_bytes)


def secret(*numbers: int, **times: Any) -> dict[str, Any]:
    entries = {}
    for number in numbers:
        key_id, key = key_of(number)
        entry = api_keys.entry_of(key, number.to_bytes(16), **times)
        entries[key_id] = base64.b64encode(entry.encode()).decode()
    return {"metadata": {"name": "s"}, "data": entries}


def body(name: str, *secrets: str, created: str = "", **spec: Any) -> dict[str, Any]:
    keys = {"secretRefs": [{"name": each} for each in secrets]} | spec.pop("apiKeys", {})
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"access": ACCESS, "apiKeys": keys, **spec},
    }


def principal(registry: TenantRegistry, name: str, key_id: str = "x", **more: Any) -> Principal:
    tenant = registry.tenants[name].tenant
    return Principal(tenant, Credential(CredentialKind.API_KEY, key_id), **more)


@pytest.fixture
def registry() -> TenantRegistry:
    registry = TenantRegistry("keys")
    registry.set_tenant(body("acme", "acme-keys"))
    registry.set_secret("acme-keys", secret(1, 2))
    registry.set_service(SERVICE, OPEN)
    return registry


def test_a_key_is_found_by_its_id_and_proved_by_its_hash(registry: TenantRegistry) -> None:
    key_id, key = key_of(1)
    found = registry.find_key(key, 0)
    assert found is not None
    assert (found[0].name, found[1].key_id) == ("acme", key_id)
    assert registry.find_key(f"avk_{key_id}_{'A' * 43}", 0) is None
    assert registry.find_key("sk-anything", 0) is None


def test_a_deleted_entry_a_deleted_secret_and_a_deleted_tenant_end_a_key() -> None:
    for change in ("entry", "secret", "tenant", "reference"):
        registry = TenantRegistry("keys")
        registry.set_tenant(body("acme", "acme-keys"))
        registry.set_secret("acme-keys", secret(1))
        holder = principal(registry, "acme", key_of(1)[0])
        assert not registry.is_revoked(holder, 0)
        registry.changed.clear()
        match change:
            case "entry":
                registry.set_secret("acme-keys", secret(2))
            case "secret":
                registry.replace_secrets([])
            case "tenant":
                registry.replace_tenants([])
            case "reference":
                registry.set_tenant(body("acme"))
        assert registry.changed.is_set()
        assert registry.find_key(key_of(1)[1], 0) is None
        assert registry.is_revoked(holder, 0)


def test_a_key_ends_at_its_time(registry: TenantRegistry) -> None:
    registry.set_secret("acme-keys", secret(1, not_after=100))
    assert registry.find_key(key_of(1)[1], 99) is not None
    assert registry.find_key(key_of(1)[1], 100) is None
    assert registry.is_revoked(principal(registry, "acme", key_of(1)[0]), 100)
    assert registry.report("acme", 99)["valid"] == 1
    assert registry.report("acme", 100)["valid"] == 0
    assert registry.report("acme", 99)["valid_until"] == 100
    assert registry.report("acme", 100)["valid_until"] == 0


def test_keys_end_when_the_last_of_them_ends(registry: TenantRegistry) -> None:
    registry.set_tenant(body("acme", "acme-keys", "more-keys"))
    registry.set_secret("acme-keys", secret(1, not_after=100))
    registry.set_secret("more-keys", secret(2, not_after=200))
    assert registry.report("acme", 99)["valid_until"] == 200
    registry.set_secret("more-keys", secret(2))
    assert registry.report("acme", 99)["valid_until"] == 0  # one has no end


def test_a_new_tenant_does_not_take_the_keys_of_an_older_one(registry: TenantRegistry) -> None:
    registry.set_tenant(body("acme", "acme-keys", created="2026-01-01T00:00:00Z"))
    registry.set_tenant(body("aaa", "acme-keys", created="2026-02-01T00:00:00Z"))
    found = registry.find_key(key_of(1)[1], 0)
    assert found is not None
    assert found[0].name == "acme"
    assert registry.report("aaa", 0) == {
        "valid": 0,
        "valid_until": 0,
        "problem": "Secret acme-keys belongs to the older AvatarTenant acme",
        "issuers_problem": "",
    }


def test_a_wrong_object_disables_its_tenant_only(
    registry: TenantRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.set_tenant(body("globex", "globex-keys"))
    registry.set_secret("globex-keys", secret(3))
    holder = principal(registry, "acme", key_of(1)[0])
    registry.set_tenant(body("acme", "acme-keys", weight="heavy"))
    assert "tenant disabled tenant=acme" in caplog.text
    assert registry.find_key(key_of(1)[1], 0) is None
    assert registry.find_key(key_of(3)[1], 0) is not None
    assert "spec.weight" in registry.report("acme", 0)["problem"]
    assert not registry.is_revoked(holder, 0), "a mistake ends no live session"
    assert not registry.permits(holder, SERVICE)


def test_a_copy_of_a_secret_takes_no_key_away(registry: TenantRegistry) -> None:
    for copy in ("acme-copy", "zz-copy"):
        registry.set_secret(copy, secret(1, 2))
    registry.remove_secret("acme-keys")
    registry.set_secret("acme-keys", secret(1, 2))  # now it is the last one that was told
    found = registry.find_key(key_of(1)[1], 0)
    assert found is not None
    assert found[0].name == "acme"


@pytest.mark.parametrize("first", ["older", "newer"])
def test_a_key_in_the_secrets_of_two_tenants_belongs_to_the_older_one(first: str) -> None:
    registry = TenantRegistry("keys")
    registry.set_tenant(body("zeta", "older", created="2026-01-01T00:00:00Z"))
    registry.set_tenant(body("acme", "newer", created="2026-02-01T00:00:00Z"))
    for name in sorted(("older", "newer"), key=lambda name: name != first):
        registry.set_secret(name, secret(1))
    found = registry.find_key(key_of(1)[1], 0)
    assert found is not None
    assert found[0].name == "zeta"


@pytest.mark.parametrize(
    ("allowed", "tenant", "platform"),
    [
        pytest.param((), True, True, id="everyone"),
        pytest.param(("acme",), True, False, id="this-tenant"),
        pytest.param(("globex",), False, False, id="another-tenant"),
        pytest.param(("",), False, False, id="nobody"),
    ],
)
def test_the_tenants_of_a_service_are_enforced(
    registry: TenantRegistry, allowed: tuple[str, ...], tenant: bool, platform: bool
) -> None:
    registry.set_service(SERVICE, ServiceAccess({}, frozenset(allowed)))
    assert registry.permits(principal(registry, "acme"), SERVICE) is tenant
    assert registry.permits(PLATFORM, SERVICE) is platform


def test_labels_of_namespaces_and_services_are_followed(registry: TenantRegistry) -> None:
    access = {
        "namespaceSelector": {"matchLabels": {"team": "acme"}},
        "serviceSelector": {"matchLabels": {"tier": "gold"}},
    }
    registry.set_tenant(body("acme") | {"spec": {"access": access}})
    holder = principal(registry, "acme")
    assert not registry.permits(holder, SERVICE)
    registry.set_namespace("acme", {"team": "acme"})
    assert not registry.permits(holder, SERVICE)
    registry.set_service(SERVICE, ServiceAccess({"tier": "gold"}, frozenset()))
    assert registry.permits(holder, SERVICE)
    registry.replace_namespaces({})
    assert not registry.permits(holder, SERVICE)
    assert not registry.permits(holder, "acme/unknown")


def test_a_client_secret_is_for_one_service_and_can_be_revoked(registry: TenantRegistry) -> None:
    use = ClientSecretUse("abcdefgh23", 0)
    holder = principal(registry, "acme", key_of(1)[0], model=SERVICE, client_secret=use)
    registry.set_service("acme/other", OPEN)
    assert registry.permits(holder, SERVICE)
    assert not registry.permits(holder, "acme/other")
    assert not registry.is_revoked(holder, 0)
    entry = base64.b64encode(api_keys.revocation_entry(0).encode()).decode()
    registry.set_secret("any", {"data": {"abcdefgh23": entry}})
    assert registry.is_revoked(holder, 0)
    registry.remove_secret("any")
    assert not registry.is_revoked(holder, 0)


def test_problems_of_keys_are_reported() -> None:
    registry = TenantRegistry("")
    registry.set_tenant(body("acme", "acme-keys"))
    assert "keysNamespace" in registry.report("acme", 0)["problem"]
    registry = TenantRegistry("keys")
    registry.set_tenant(body("acme", "acme-keys", "more"))
    registry.set_secret("acme-keys", {"data": {"abcdefgh23": "!"}})
    assert registry.report("acme", 0)["problem"] == (
        "Secret acme-keys: entry 'abcdefgh23' is not base64; Secret keys/more does not exist"
    )


def test_an_issuer_that_is_away_is_no_problem_of_the_keys(registry: TenantRegistry) -> None:
    issuer = "https://login.example"
    registry.set_tenant(
        body("acme", "acme-keys", jwt=[{"issuer": issuer, "audiences": ["avatar"]}])
    )
    registry.issuer_problems[issuer] = "the issuer does not answer within 5 s"
    found = registry.report("acme", 0)
    assert (found["valid"] > 0, found["problem"]) == (True, "")
    assert found["issuers_problem"] == f"issuer {issuer}: the issuer does not answer within 5 s"


def test_a_thousand_tenants_with_ten_keys_each_are_looked_up_in_one_step() -> None:
    registry = TenantRegistry("keys")
    for number in range(1000):
        registry.set_tenant(body(f"t{number}", f"s{number}"))
        registry.set_secret(f"s{number}", secret(*range(number * 10, number * 10 + 10)))
    for number in (0, 5000, 9999):
        found = registry.find_key(key_of(number)[1], 0)
        assert found is not None
        assert found[0].name == f"t{number // 10}"
        # A key is compared with the one entry that has its id.
        (same_id,) = vars(registry)["_by_id"][key_of(number)[0]].values()
        assert same_id is found[1]
