from __future__ import annotations

import json
from typing import Any

import pytest
from tests.gateway import tenants as make

from avatar_gateway.core.key_sets import MAX_KEYS, inline_key_set, parse_key_set

EC = next(key for key in json.loads(make.key_set())["keys"] if key["kty"] == "EC")


def keys(*found: Any) -> str:
    return json.dumps({"keys": list(found)})


def test_the_key_is_found_by_its_id_and_fits_the_algorithm() -> None:
    found = parse_key_set(make.key_set())
    assert found.find(make.RSA_KID, "RS256") is not None
    assert found.find(make.RSA_KID, "PS512") is not None
    assert found.find(make.RSA_KID, "ES256") is None
    assert found.find(make.EC_KID, "ES256") is not None
    assert found.find(make.EC_KID, "ES384") is None, "the curve decides"
    assert found.find("other", "RS256") is None
    assert (found.has(make.RSA_KID), found.has("other"), found.has(None)) == (True, False, True)


def test_a_token_without_an_id_needs_one_key_that_fits() -> None:
    assert parse_key_set(make.key_set()).find(None, "RS256") is not None
    two = parse_key_set(keys(make.rsa_jwk(0, kid="a"), make.rsa_jwk(1, kid="b")))
    assert two.find(None, "RS256") is None
    assert two.find("b", "RS256") is not None


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(7, id="number"),
        pytest.param({}, id="empty"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}, id="shared-secret"),
        pytest.param(make.rsa_jwk(0, kid="k", use="enc"), id="for-encryption"),
        pytest.param(make.rsa_jwk(0, kid="k", alg="RSA-OAEP"), id="other-algorithm"),
        pytest.param(make.rsa_jwk(0, kid="k", alg="HS256"), id="HS256"),
        pytest.param(make.rsa_jwk(0, kid="k", alg=7), id="algorithm-number"),
        pytest.param(make.rsa_jwk(0, kid="k", n="!"), id="no-number"),
        pytest.param({"kty": "EC", "crv": ["P-256"], "kid": "k"}, id="curve-list"),
        pytest.param(EC | {"kid": "k", "crv": "secp256k1"}, id="other-curve"),
        pytest.param(EC | {"kid": "k", "x": EC["y"]}, id="not-on-the-curve"),
    ],
)
def test_a_key_that_cannot_be_used_is_not_found(key: Any) -> None:
    found = parse_key_set(keys(key))
    algorithms = ("RS256", "ES256", "EdDSA", "HS256", "none", "RSA-OAEP")
    assert all(found.find("k", algorithm) is None for algorithm in algorithms)


def test_the_algorithm_of_the_key_is_the_only_one() -> None:
    found = parse_key_set(keys(make.rsa_jwk(0, kid="k", alg="RS384")))
    assert found.find("k", "RS384") is not None
    assert found.find("k", "RS256") is None


@pytest.mark.parametrize("text", ["", "7", "[]", "{}", '{"keys": {}}', "[" * 5000, b"\xff"])
def test_what_is_not_a_key_set_is_an_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is not a JSON object|has no list of keys)$"):
        parse_key_set(text)


def test_the_number_of_keys_is_bounded() -> None:
    assert len(parse_key_set(keys(*[EC] * (MAX_KEYS + 5))).keys) == MAX_KEYS


def test_an_inline_set_is_parsed_once() -> None:
    assert inline_key_set(make.key_set()) is inline_key_set(make.key_set())
