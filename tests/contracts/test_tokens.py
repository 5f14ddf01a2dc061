from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.tokens import (
    control_token,
    gateway_key,
    gateway_token,
    generation,
    matches,
    session_token,
    state_token,
)

NAMES = st.from_regex(r"[a-z0-9]{1,8}/[a-z0-9]{1,8}", fullmatch=True)
MASTERS = st.text(st.characters(exclude_categories=["Cs"]), min_size=16, max_size=64)


def test_control_token_is_the_hmac_of_the_service_under_the_master_key() -> None:
    # HMAC-SHA256 of "acme/concierge" under "master", computed with openssl dgst.
    expected = "02bb081ad587c6aefbe90c6f7a3a26f0b8616f6369edd925b6b9db2ce07fe652"
    assert control_token("master", "acme/concierge") == expected
    by_hand = hmac.new(b"master", b"acme/concierge", hashlib.sha256).hexdigest()
    assert control_token("master", "acme/concierge") == by_hand


def test_gateway_token_is_the_hmac_of_gateway() -> None:
    assert gateway_token("master") == hmac.new(b"master", b"gateway", hashlib.sha256).hexdigest()


@given(master=MASTERS, service=NAMES, other=NAMES)
def test_each_service_has_its_own_token(master: str, service: str, other: str) -> None:
    token = control_token(master, service)
    assert len(token) == 64
    assert token.isascii()
    assert (token == control_token(master, other)) == (service == other)
    assert token != gateway_token(master)


@given(master=MASTERS, service=NAMES, other=NAMES)
def test_tokens_of_gateways_differ_by_service_and_purpose(
    master: str, service: str, other: str
) -> None:
    key = gateway_key(master)
    found = {
        control_token(master, service),
        gateway_token(master),
        state_token(key, service),
        session_token(key, service),
        key,
    }
    assert len(found) == 5
    assert (state_token(key, service) == state_token(key, other)) == (service == other)
    assert (session_token(key, service) == session_token(key, other)) == (service == other)


@given(master=MASTERS, other=MASTERS)
def test_generation_names_a_master_key_without_a_part_of_it(master: str, other: str) -> None:
    name = generation(master)
    assert len(name) == 10
    assert set(name) <= set("0123456789abcdef")
    assert (name == generation(other)) == (master == other)


@pytest.mark.parametrize(
    ("token", "accepted", "expected"),
    [
        ("a", ("a",), True),
        ("b", ("a", "b"), True),
        ("c", ("a", "b"), False),
        ("", (), False),
        ("", ("",), False),
        ("\udcff", ("a",), False),
        ("a-key-of-16-charact", ("a-key-of-16-characte",), False),
    ],
    ids=["same", "second", "other", "nothing", "empty", "surrogate", "shorter"],
)
def test_one_of_the_accepted_tokens_matches(
    token: str, accepted: tuple[str, ...], expected: bool
) -> None:
    assert matches(token, accepted) is expected
