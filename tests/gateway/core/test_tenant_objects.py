from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.tenant_objects import (
    Issuer,
    OnRevocation,
    is_safe_url,
    parse_tenant,
)
from avatar_gateway.core.tenants import AtMonthlyLimit, TenantLimits

if TYPE_CHECKING:
    from avatar_contracts.tenant_access import Access

JWT = {"issuer": "https://issuer.example", "audiences": ["avatar"]}


def tenant(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "acme"}, "spec": {"access": {"namespaces": ["acme"]}, **spec}}


def test_every_field_is_read() -> None:
    parsed = parse_tenant(
        tenant(
            access={"namespaces": ["acme"], "gpuClasses": ["rtx-4090"]},
            apiKeys={"secretRefs": [{"name": "acme-keys"}], "onRevocation": "EndSessions"},
            jwt=[JWT | {"algorithms": ["ES384"], "requiredClaims": {"t": "a"}}],
            origins=["https://acme.example"],
            limits={
                "sessions": 3,
                "sessionsPerService": 2,
                "sessionSeconds": 60,
                "minutesPerMonth": 10,
                "atMonthlyLimit": "Report",
            },
            weight=5,
            priority=7,
        )
    )
    assert (parsed.problem, parsed.name) == ("", "acme")
    assert parsed.tenant.limits == TenantLimits(3, 2, 60, 10, AtMonthlyLimit.REPORT)
    assert (parsed.tenant.weight, parsed.tenant.priority) == (5, 7)
    assert parsed.tenant.gpu_classes == {"rtx-4090"}
    assert parsed.secrets == ("acme-keys",)
    assert parsed.on_revocation is OnRevocation.END
    assert parsed.origins == {"https://acme.example"}
    (issuer,) = parsed.issuers
    assert issuer == Issuer(
        "https://issuer.example",
        frozenset({"avatar"}),
        algorithms=frozenset({"ES384"}),
        required_claims=(("t", "a"),),
    )


def test_the_defaults_are_those_of_the_schema() -> None:
    parsed = parse_tenant(tenant(jwt=[JWT]))
    assert parsed.tenant.limits == TenantLimits()
    assert (parsed.tenant.weight, parsed.tenant.priority) == (1, 0)
    assert parsed.on_revocation is OnRevocation.KEEP
    assert parsed.issuers[0].algorithms == {"RS256", "ES256"}
    assert parsed.issuers[0].skew_s == 30


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"weight": 0}, id="weight"),
        pytest.param({"limits": {"sessions": -1}}, id="sessions"),
        pytest.param({"limits": {"atMonthlyLimit": "Ignore"}}, id="at-monthly-limit"),
        pytest.param({"apiKeys": {"secretRefs": [{}]}}, id="no-name-of-secret"),
        pytest.param({"apiKeys": {"onRevocation": "Ask"}}, id="on-revocation"),
        pytest.param({"access": {"namespaces": "acme"}}, id="namespaces"),
        pytest.param({"access": {"namespaces": ["a"] * 101}}, id="too-many"),
        pytest.param({"access": {"serviceSelector": {"matchLabels": 3}}}, id="selector"),
        pytest.param({"jwt": [JWT | {"algorithms": ["HS256"]}]}, id="shared-secret"),
        pytest.param({"jwt": [JWT | {"algorithms": ["none"]}]}, id="none"),
        pytest.param({"jwt": [JWT | {"audiences": []}]}, id="no-audience"),
        pytest.param({"jwt": [JWT | {"issuer": ""}]}, id="no-issuer"),
        pytest.param({"jwt": [JWT | {"jwksURL": "http://keys.example"}]}, id="http"),
        pytest.param({"jwt": [JWT | {"jwks": "{}"}]}, id="no-keys"),
        pytest.param(
            {"jwt": [JWT | {"jwks": '{"keys":[]}', "jwksURL": "https://a.example"}]}, id="both"
        ),
        pytest.param({"jwt": [JWT | {"requiredClaims": {"a": 1}}]}, id="claim"),
        pytest.param({"jwt": [JWT | {"clockSkewSeconds": 301}]}, id="skew"),
    ],
)
def test_a_wrong_field_disables_the_whole_tenant(spec: dict[str, Any]) -> None:
    parsed = parse_tenant(tenant(origins=["https://a.example"]) | {"spec": spec})
    assert "spec" in parsed.problem
    assert (parsed.name, parsed.secrets, parsed.issuers) == ("acme", (), ())
    assert not parsed.access.permits("acme", {}, {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {}, optional={"access": _JSON, "apiKeys": _JSON, "jwt": _JSON, "limits": _JSON}
    )
)
def test_no_object_ends_the_parser(spec: dict[str, Any]) -> None:
    assert parse_tenant({"metadata": {"name": "acme"}, "spec": spec}).name == "acme"


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("https://issuer.example/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://localhost/keys", True),
        ("http://issuer.example", False),
        ("http://127.0.0.1.example", False),
        ("https://user:word@issuer.example", False),
        ("https://issuer.example#x", False),
        ("https://", False),
        ("https://[::1", False),
        ("file:///etc/passwd", False),
    ],
)
def test_keys_are_fetched_over_https_only(url: str, is_safe: bool) -> None:
    assert is_safe_url(url) is is_safe


def test_access_needs_the_namespace_and_the_labels() -> None:
    spec = {
        "namespaces": ["named"],
        "namespaceSelector": {"matchLabels": {"team": "acme"}},
        "serviceSelector": {"matchLabels": {"tier": "gold"}},
    }
    access: Access = parse_tenant(tenant(access=spec)).access
    gold = {"tier": "gold"}
    assert access.permits("named", {}, gold)
    assert access.permits("other", {"team": "acme"}, gold)
    assert not access.permits("other", {"team": "globex"}, gold)
    assert not access.permits("named", {}, {})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9090/keys", "https://localhost/keys", "https://[::1]/keys"]
)
def test_what_an_issuer_publishes_does_not_lead_to_this_machine(url: str) -> None:
    assert is_safe_url(url)
    assert not is_safe_url(url, loopback=False)
    assert is_safe_url("https://issuer.example/keys", loopback=False)
