from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core import api_keys

ID, KEY = api_keys.new_key(b"r" * 32, bytes(range(16)))
SALT = b"s" * 16
ENTRY = api_keys.entry_of(KEY, SALT, "for tests")


def test_a_key_is_a_public_name_and_256_random_bits() -> None:
    assert KEY.startswith(f"avk_{ID}_")
    assert len(KEY.rpartition("_")[2]) == 43
    assert api_keys.key_id_of(KEY) == ID
    other = api_keys.new_key(b"R" * 32, bytes(range(16)))
    assert other[0] == ID
    assert other[1] != KEY


def test_a_secret_stores_no_key() -> None:
    stored = api_keys.parse_entry(ID, ENTRY.encode())
    assert isinstance(stored, api_keys.StoredKey)
    assert KEY not in ENTRY
    assert KEY.rpartition("_")[2] not in ENTRY
    assert stored.comment == "for tests"
    assert stored.matches(KEY)
    assert not stored.matches(KEY[:-1] + ("A" if KEY[-1] != "A" else "B"))


@pytest.mark.parametrize(
    ("now", "is_current"), [(99, False), (100, True), (199.9, True), (200, False)]
)
def test_keys_overlap_by_their_times(now: float, is_current: bool) -> None:
    entry = api_keys.entry_of(KEY, SALT, not_before=100, not_after=200)
    assert json.loads(entry)["notBefore"] == "1970-01-01T00:01:40Z"
    stored = api_keys.parse_entry(ID, entry.encode())
    assert isinstance(stored, api_keys.StoredKey)
    assert stored.is_current(now) is is_current


@pytest.mark.parametrize(
    "text",
    ["", "avk_", f"{KEY}x", KEY[:-1], KEY.upper(), f" {KEY}", f"{KEY}\n", KEY.replace("_", "-")],
)
def test_what_is_not_a_key_has_no_id(text: str) -> None:
    assert api_keys.key_id_of(text) is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("UPPER123", {}, id="name"),
        pytest.param("short", {}, id="short-name"),
        pytest.param(ID, {"algorithm": "md5"}, id="algorithm"),
        pytest.param(ID, {"salt": ""}, id="salt"),
        pytest.param(ID, {"hash": "00"}, id="hash"),
        pytest.param(ID, {"hash": None}, id="no-hash"),
        pytest.param(ID, {"notAfter": "tomorrow"}, id="time"),
        pytest.param(ID, {"notAfter": "2026-01-01T00:00:00"}, id="no-offset"),
        pytest.param(ID, {"notBefore": 5}, id="number"),
        pytest.param(ID, {"comment": "x" * 5000}, id="long"),
    ],
)
def test_a_wrong_entry_is_a_problem_without_its_content(name: str, changes: dict[str, Any]) -> None:
    entry = json.loads(ENTRY) | changes
    data = {
        name: base64.b64encode(json.dumps(entry).encode()).decode(),
        "goodgoodgood": base64.b64encode(ENTRY.encode()).decode(),
    }
    keys, _, (problem,) = api_keys.parse_secret({"data": data})
    assert keys.keys() == {"goodgoodgood"}
    assert json.loads(ENTRY)["hash"] not in problem
    assert json.loads(ENTRY)["salt"] not in problem


def test_an_entry_can_revoke_a_client_secret() -> None:
    value = base64.b64encode(api_keys.revocation_entry(5).encode()).decode()
    keys, revoked, problems = api_keys.parse_secret({"data": {"abcdefgh23": value}})
    assert (keys, revoked, problems) == ({}, frozenset({"abcdefgh23"}), ())


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=40) | st.integers(), max_size=4))
def test_no_secret_ends_the_parser(data: dict[str, Any]) -> None:
    api_keys.parse_secret({"data": data})


@pytest.mark.parametrize("data", [None, [], "x", {}])
def test_a_secret_without_entries_has_no_keys(data: Any) -> None:
    assert api_keys.parse_secret({"data": data}) == ({}, frozenset(), ())
