"""What a token costs before it is refused, and bounds that a header of a request cannot reach."""

from __future__ import annotations

from time import time
from typing import Any

import jwt
import pytest
from tests.gateway import tenants as make

from avatar_gateway.serving.token_verifier import MAX_TOKEN, TokenVerifier
from avatar_gateway.streams.key_sets import KeySets
from avatar_gateway.tenant_registry import TenantRegistry


class CountingKeys(KeySets):
    """Counts the lookups of keys."""

    lookups = 0

    async def find(self, *arguments: Any) -> Any:
        """Return the key."""
        self.lookups += 1
        return await super().find(*arguments)


def verifier(*tenants: str) -> tuple[TokenVerifier, CountingKeys, TenantRegistry]:
    registry = TenantRegistry("keys")
    issuer = {"issuer": make.ISSUER, "audiences": ["avatar"], "jwks": make.key_set()}
    for name in tenants:
        registry.set_tenant(make.tenant_of(name, jwt=[issuer]))
    keys = CountingKeys(registry)
    return TokenVerifier(registry, keys), keys, registry


async def test_a_token_names_its_tenant_and_a_code_for_its_subject() -> None:
    verify, _, _ = verifier("acme")
    found = await verify.verify(make.token(sub="alice@example.com"), time())
    assert found is not None
    assert found.tenant_name == "acme"
    assert found.credential.startswith(f"jwt:{make.ISSUER}:")
    assert "alice" not in found.credential


@pytest.mark.parametrize(
    "text",
    [
        make.unsigned({"alg": "HS256"}, {}, b"k"),
        make.unsigned({"alg": "RS256"}, {"iss": "https://other.example", "aud": "avatar"}),
        make.unsigned({"alg": "RS256"}, {"iss": make.ISSUER, "aud": "avatar", "exp": 1}),
        make.unsigned({"alg": "RS512"}, make.claims_of(exp=2**40)),
        make.unsigned({"alg": "RS256", "kid": "k" * 257}, make.claims_of(exp=2**40)),
        make.unsigned({"alg": "RS256", "kid": 7}, make.claims_of(exp=2**40)),
        make.unsigned({"alg": "RS256", "x": "x" * MAX_TOKEN}, make.claims_of(exp=2**40)),
        "a.b",
        "a.b.c.d",
        "\udcff.\udcff.",
        "..",
    ],
    ids=["alg", "issuer", "expired", "not-pinned", "kid", "kid-type", "long", *"abcd"],
)
async def test_most_wrong_tokens_are_refused_before_a_key_is_looked_up(text: str) -> None:
    verify, keys, _ = verifier("acme")
    assert await verify.verify(text, time()) is None
    assert keys.lookups == 0


@pytest.mark.parametrize("exp", [float("1e300"), 2**70, -1, True])
async def test_no_expiry_ends_the_verifier(exp: float) -> None:
    verify, _, _ = verifier("acme")
    found = await verify.verify(make.token(exp=exp), time())
    assert (found is None) or exp in (1e300, 2**70)


async def test_the_oldest_tenant_has_a_token_that_several_trust() -> None:
    verify, keys, registry = verifier()
    issuer = {"issuer": make.ISSUER, "audiences": ["avatar"], "jwks": make.key_set()}
    for name, created in (("b", "2026-01-01T00:00:00Z"), ("a", "2026-02-01T00:00:00Z")):
        registry.set_tenant(make.tenant_of(name, created=created, jwt=[issuer]))
    found = await verify.verify(make.token(), time())
    assert found is not None
    assert (found.tenant_name, keys.lookups) == ("b", 1)


async def test_a_flood_costs_a_bounded_number_of_verifications() -> None:
    verify, keys, _ = verifier(*(f"t{number}" for number in range(20)))
    forged = jwt.encode(make.claims_of(), make.rsa_key(1), "RS256", headers={"kid": make.RSA_KID})
    assert await verify.verify(forged, time()) is None
    assert keys.lookups == 4
