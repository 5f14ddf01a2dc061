"""Which tokens follow from the master keys, and what the Secrets contain."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts import tokens
from avatar_operator.core.keys import KeyRing, encode, opaque_secret, parse_master_keys

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=64)
SERVICE = "acme/concierge"
FIRST, SECOND = "first-key-of-the-operator", "second-key-of-the-operator"


@given(old=KEYS, new=KEYS, pod_has=st.sampled_from(["old", "new", "both"]))
def test_during_a_rotation_a_pod_is_heard_whichever_tokens_it_has_mounted(
    old: str, new: str, pod_has: str
) -> None:
    before, after = KeyRing(old), KeyRing(new, old)
    mounted = {
        "old": before.service_tokens(SERVICE),
        "new": KeyRing(new).service_tokens(SERVICE),
        "both": after.service_tokens(SERVICE),
    }[pod_has]
    accepted = {value for name, value in mounted.items() if name.endswith("token")}
    for generation in (before.generation, after.generation, "", "unknown"):
        assert accepted & set(after.control_tokens(SERVICE, generation))


@given(old=KEYS, new=KEYS)
def test_the_token_of_the_generation_of_a_pod_is_tried_first(old: str, new: str) -> None:
    ring = KeyRing(new, old)
    first = {g: ring.control_tokens(SERVICE, g)[0] for g in map(tokens.generation, (old, new))}
    assert first[tokens.generation(new)] == tokens.control_token(new, SERVICE)
    assert first[tokens.generation(old)] == tokens.control_token(old, SERVICE)
    assert ring.control_tokens(SERVICE, "unknown")[0] == tokens.control_token(new, SERVICE)


@given(old=KEYS, new=KEYS, service=st.sampled_from([SERVICE, "acme/other", "system/gateway"]))
def test_gateways_get_nothing_that_controls_a_pod(old: str, new: str, service: str) -> None:
    ring = KeyRing(new, old)
    given_to_gateways = set(ring.gateway_keys().values())
    assert not given_to_gateways & {new, old}
    control = set(ring.control_tokens(service, ""))
    for key in given_to_gateways:
        derived = {
            key,
            tokens.control_token(key, service),
            tokens.state_token(key, service),
            tokens.session_token(key, service),
            tokens.gateway_token(key),
        }
        assert not derived & control


def test_the_secret_of_a_service_has_three_tokens_of_each_key() -> None:
    one, two = KeyRing(FIRST), KeyRing(SECOND, FIRST)
    found = two.service_tokens(SERVICE)
    assert set(one.service_tokens(SERVICE)) == {"token", "state-token", "session-token"}
    assert {name: found[f"previous-{name}"] for name in one.service_tokens(SERVICE)} == (
        one.service_tokens(SERVICE)
    )
    key = tokens.gateway_key(SECOND)
    assert found["token"] == tokens.control_token(SECOND, SERVICE)
    assert found["state-token"] == tokens.state_token(key, SERVICE)
    assert found["session-token"] == tokens.session_token(key, SERVICE)
    assert two.gateway_keys() == {"key": key, "previous-key": tokens.gateway_key(FIRST)}


def test_operators_read_gateways_of_this_and_of_earlier_releases() -> None:
    found = KeyRing(SECOND, FIRST).gateway_tokens()
    keys = [tokens.gateway_key(SECOND), tokens.gateway_key(FIRST), SECOND, FIRST]
    assert found == tuple(map(tokens.gateway_token, keys))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"master": FIRST}, KeyRing(FIRST)),
        ({"master": f"{FIRST}\n"}, KeyRing(FIRST)),
        ({"master": FIRST, "previous": SECOND}, KeyRing(FIRST, SECOND)),
        ({"master": FIRST, "previous": FIRST}, KeyRing(FIRST)),
        ({"master": FIRST, "previous": ""}, KeyRing(FIRST)),
    ],
    ids=["one", "newline", "two", "same", "empty"],
)
def test_keys_are_read_as_they_were_written(data: dict[str, str], expected: KeyRing) -> None:
    assert parse_master_keys({"data": encode(data)}) == expected
    body = opaque_secret("system", "control", expected.master_keys())
    assert parse_master_keys(body) == expected


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "has no key master"),
        (None, "has no key master"),
        ({"master": ""}, "has no key master"),
        ({"previous": base64.b64encode(FIRST.encode()).decode()}, "has no key master"),
        ({"master": base64.b64encode(b"short").decode()}, "must have 16 characters or more"),
        ({"master": base64.b64encode(b"\xff" * 32).decode()}, "not UTF-8 text in base64"),
        ({"master": "no base64!"}, "not UTF-8 text in base64"),
    ],
)
def test_a_secret_without_a_usable_key_is_refused_without_showing_it(data: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as refused:
        parse_master_keys({"data": data})
    assert "short" not in str(refused.value)


def test_keys_are_hidden() -> None:
    assert FIRST not in repr(KeyRing(FIRST, SECOND))
    assert SECOND not in repr(KeyRing(FIRST, SECOND))


def test_one_key_gives_one_token_and_one_file() -> None:
    one = KeyRing(FIRST)
    assert one.generation == tokens.generation(FIRST)
    assert one.control_tokens(SERVICE, "unknown") == (tokens.control_token(FIRST, SERVICE),)
    assert one.gateway_keys() == {"key": tokens.gateway_key(FIRST)}
    assert one.master_keys() == {"master": FIRST}
    assert KeyRing(SECOND, FIRST).master_keys() == {"master": SECOND, "previous": FIRST}
    assert one.gateway_tokens() == (
        tokens.gateway_token(tokens.gateway_key(FIRST)),
        tokens.gateway_token(FIRST),
    )


def test_a_secret_of_the_operator_says_whose_it_is() -> None:
    assert opaque_secret("system", "control", {"a": "b"}) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "control",
            "namespace": "system",
            "labels": {"app.kubernetes.io/managed-by": "avatar-operator"},
        },
        "type": "Opaque",
        "data": {"a": "Yg=="},
    }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x" * 15, "key master has 15 characters, must have 16 characters or more"),
        (f"{'x' * 15} \n", "key master has 15 characters, must have 16 characters or more"),
        ("", "has no key master"),
    ],
)
def test_a_short_key_is_refused_with_its_length(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_master_keys({"data": encode({"master": key})})


def test_a_key_of_16_characters_is_long_enough() -> None:
    assert parse_master_keys({"data": encode({"master": "x" * 16})}) == KeyRing("x" * 16)


def test_the_wrong_key_is_named() -> None:
    data = {**encode({"master": FIRST}), "previous": "no base64!"}
    with pytest.raises(ValueError, match=r"^key previous is not UTF-8 text in base64$") as refused:
        parse_master_keys({"data": data})
    assert refused.value.__suppress_context__
