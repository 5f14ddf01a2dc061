from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core import credentials
from avatar_gateway.core.credentials import ClientSecret, presented
from avatar_gateway.core.tenants import PLATFORM_KEY, Credential, CredentialKind

KEY = "a-key-of-some-length"
API_KEY = Credential(CredentialKind.API_KEY, "abcdefgh")


def mint(key: str, secret: ClientSecret) -> str:
    return credentials.mint(credentials.platform_signing_key(key), secret)


def verify(key: str, text: str, now: float) -> ClientSecret | None:
    parsed = credentials.parse_secret(text, now)
    signing_key = credentials.platform_signing_key(key)
    return parsed.content if parsed is not None and parsed.is_signed_with([signing_key]) else None


@pytest.mark.parametrize(
    ("headers", "protocols", "expected"),
    [
        pytest.param({"Authorization": "Bearer k"}, [], "k", id="bearer"),
        pytest.param({"Authorization": "bearer  k "}, [], "k", id="any case and spaces"),
        pytest.param({"api-key": "k"}, [], "k", id="api-key"),
        pytest.param({}, ["realtime", "openai-insecure-api-key.k"], "k", id="subprotocol"),
        pytest.param({"Authorization": "Basic k"}, [], None, id="basic"),
        pytest.param({"Authorization": "Bearer"}, [], None, id="empty bearer"),
        pytest.param({}, ["realtime"], None, id="nothing"),
    ],
)
def test_a_credential_is_read_from_each_place(
    headers: dict[str, str], protocols: list[str], expected: str | None
) -> None:
    assert presented(headers, protocols) == expected


@given(
    st.integers(1, 2**40),
    st.text(max_size=40),
    st.sampled_from(["", "https://a.example"]),
    st.integers(0, 9),
    st.sampled_from(["", "acme"]),
)
def test_a_client_secret_is_valid_on_every_replica_until_it_expires(
    expires_at: int, model: str, origin: str, uses: int, tenant: str
) -> None:
    secret = ClientSecret(
        expires_at, model, "id", origin, uses, tenant, API_KEY if tenant else PLATFORM_KEY
    )
    text = mint(KEY, secret)
    assert verify(KEY, text, expires_at - 0.5) == secret
    assert verify(KEY, text, expires_at) is None
    assert verify("another-key-altogether", text, 0) is None
    # RFC 7230 token: what a WebSocket subprotocol may consist of.
    assert re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", text)


@given(st.data())
def test_a_modified_client_secret_is_invalid(data: st.DataObject) -> None:
    text = mint(KEY, ClientSecret(100, "a/b"))
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("aZ0_-.").filter(lambda c: c != text[position]))
    changed = text[:position] + other + text[position + 1 :]
    body, _, signature = changed.removeprefix("ek_").partition(".")
    same = text.removeprefix("ek_").partition(".")
    # In base64, the last character of 32 bytes has two unused bits.
    if body == same[0] and _decoded(signature) == _decoded(same[2]):
        return
    assert verify(KEY, changed, 0) is None


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None


@pytest.mark.parametrize("text", ["", "ek_", "ek_.", "ek_a.b", "ek_\udcff.\udcff", KEY, "ek_é.é"])
def test_a_malformed_client_secret_is_invalid(text: str) -> None:
    assert verify(KEY, text, 0) is None


def test_a_client_secret_needs_its_prefix_and_both_parts() -> None:
    text = mint(KEY, ClientSecret(100, "a/b"))
    assert verify(KEY, text, 0) is not None
    assert verify(KEY, text.removeprefix("ek_"), 0) is None
    assert verify(KEY, text.replace(".", ""), 0) is None


def test_a_client_secret_of_an_earlier_version_for_all_services_is_invalid() -> None:
    text = mint(KEY, ClientSecret(100, None))  # type: ignore[arg-type]
    assert verify(KEY, text, 0) is None


def test_a_signature_with_foreign_characters_is_invalid() -> None:
    text = mint(KEY, ClientSecret(100, "a/b"))
    assert verify(KEY, text + "!", 0) is None
    assert verify(KEY, text.replace(".", ".!!!!"), 0) is None


def test_the_format_of_a_client_secret_is_stable() -> None:
    """Replicas of different versions share the API key, so an old secret must stay valid."""
    text = (
        "ek_WzIwMDAwMDAwMDAsImFjbWUvY29uY2llcmdlIiwibm9uY2UiXQ"
        ".buGs-0bCd0ahybm5MC1193gN1YsXh4urL0AgBI8NS4w"
    )
    secret = ClientSecret(2_000_000_000, "acme/concierge", "nonce")
    assert mint(KEY, secret) == text
    assert verify(KEY, text, 0) == secret


def test_the_first_place_of_a_credential_has_precedence() -> None:
    headers = {"Authorization": "Bearer first", "api-key": "second"}
    protocols = ["openai-insecure-api-key.third", "openai-insecure-api-key.fourth"]
    assert presented(headers, protocols) == "first"
    assert presented({"api-key": " second "}, protocols) == "second"
    assert presented({"api-key": " "}, protocols) == "third"


def test_the_key_that_signs_for_a_tenant_changes_with_all_that_it_stands_for() -> None:
    other = Credential(CredentialKind.API_KEY, "abcdefgi")
    token = Credential(CredentialKind.JWT, "abcdefgh")
    made = {
        credentials.tenant_signing_key(key, tenant, source, proof)
        for key in ("gateway-key-1", "gateway-key-2")
        for tenant in ("acme", "globex")
        for source in (API_KEY, other, token)
        for proof in (b"", b"h")
    }
    assert len(made) == 24


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("avk_abcdefgh_" + "a" * 43, True),
        ("x=avk_abcdefgh_" + "a" * 43, True),
        ("ek_x", True),
        ("sk-x", True),
        ("eyJhbGciOiJub25lIn0.e30.", True),
        ("eyJ", False),
        ("avk_", False),
        ("acme/concierge", False),
    ],
)
def test_what_looks_like_a_credential_does_not_belong_into_a_url(text: str, expected: bool) -> None:
    assert credentials.looks_like_credential(text) is expected


@pytest.mark.parametrize(
    "fields",
    [
        "7",
        "[]",
        "{}",
        '[9, "a/b"]',
        '[9, "a/b", "n", "", 0, "acme", "root", ""]',
        '[9, "a/b", "n", "", "0", "acme", "key", ""]',
        '[9, "a/b", "n", "", 0, "acme", "key", "", 1]',
        '["9", "a/b", "n"]',
        "[" * 6000,
    ],
)
def test_signed_nonsense_is_invalid(fields: str) -> None:
    body = base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")
    assert credentials.parse_secret(f"ek_{body}.AAAA", 0) is None
