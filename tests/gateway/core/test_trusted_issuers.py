from __future__ import annotations

from typing import Any

import pytest

from avatar_gateway.core.tenant_objects import Issuer
from avatar_gateway.core.trusted_issuers import TrustedIssuers

URL = "https://issuer.example"


def issuer(*audiences: str, **claims: str) -> Issuer:
    names = frozenset(audiences or ("avatar",))
    return Issuer(URL, names, required_claims=tuple(sorted(claims.items())))


def names(trusted: TrustedIssuers, **claims: Any) -> list[str]:
    found = trusted.matching({"iss": URL, "aud": "avatar", **claims})
    return sorted(name for name, _ in found)


def test_the_claim_tells_tenants_of_one_issuer_apart() -> None:
    trusted = TrustedIssuers()
    for index in range(1000):
        trusted.add(f"t{index}", [issuer(tenant=f"t{index}")])
    assert names(trusted, tenant="t7") == ["t7"]
    assert names(trusted, tenant="t1000") == []
    assert names(trusted) == []


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"iss": [URL]},
        {"aud": "other"},
        {"aud": None},
        {"aud": [["avatar"]]},
        {"aud": ["x"] * 20 + ["avatar"]},
        {"tenant": ["acme"]},
        {"tenant": {}},
        {"tenant": True},
    ],
)
def test_other_tokens_match_nobody(claims: dict[str, Any]) -> None:
    trusted = TrustedIssuers()
    trusted.add("acme", [issuer(tenant="acme")])
    assert names(trusted, tenant="acme") == ["acme"]
    assert names(trusted, **({"tenant": "acme"} | claims)) == []


def test_one_of_several_audiences_is_enough() -> None:
    trusted = TrustedIssuers()
    trusted.add("acme", [issuer("avatar", "video")])
    assert names(trusted, aud=["x", "video"]) == ["acme"]
    assert names(trusted, aud=["avatar", "video"]) == ["acme"]


def test_nothing_is_left_of_a_tenant_that_is_removed() -> None:
    trusted = TrustedIssuers()
    trusted.add("a", [issuer("avatar"), issuer("avatar", tenant="x")])
    trusted.add("b", [issuer("avatar", tenant="x")])
    trusted.remove("a", [issuer("avatar"), issuer("avatar", tenant="x")])
    assert names(trusted, tenant="x") == ["b"]
    trusted.remove("b", [issuer("avatar", tenant="x")])
    assert vars(trusted)["_found"] == {}
