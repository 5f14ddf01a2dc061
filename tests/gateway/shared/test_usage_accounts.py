"""Pods return what gateways gave them for a connection, and can make nothing of their own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet

from avatar_contracts import usage as contract
from avatar_gateway.core import usage
from avatar_gateway.core.tenants import Credential, CredentialKind
from avatar_gateway.core.usage import Account, PlacedConnection
from avatar_gateway.serving.direct import MAX_ISSUER
from avatar_gateway.shared.usage_accounts import UsageAccounts

NOW_MS = 1_000_000
PLACED = PlacedConnection(
    "conn_" + "0" * 24, "uid-p1", Account("acme", "ns/s", "h100"), True, NOW_MS, 4
)


def test_every_gateway_reads_what_one_has_made_also_during_a_rotation() -> None:
    keys = ["first-key"]
    text = UsageAccounts(lambda: keys).seal(PLACED)
    assert UsageAccounts(lambda: ["first-key"]).open(text) == PLACED
    other = UsageAccounts(lambda: keys)
    keys.insert(0, "second-key")
    assert other.open(text) == PLACED
    assert UsageAccounts(lambda: ["second-key"]).open(other.seal(PLACED)) == PLACED
    keys.pop()
    assert other.open(text) is None


@pytest.mark.parametrize("longest_ms", [None, 60_000])
def test_the_text_of_a_direct_session_has_its_limit_and_its_credential(
    longest_ms: int | None,
) -> None:
    source = Credential(CredentialKind.API_KEY, "0123456789abcdef")
    placed = replace(PLACED, is_direct=True, longest_ms=longest_ms, source=source, secret_id="cs_1")
    accounts = UsageAccounts(lambda: ["a-key"])
    assert accounts.open(accounts.seal(placed)) == placed


def test_the_text_with_the_longest_names_is_one_that_pods_send_back() -> None:
    account = Account("t" * 63, "n" * 63 + "/" + "s" * 63, "c" * 63)
    placed = PlacedConnection(
        record=PLACED.record,
        pod_uid="u" * 36,
        account=account,
        is_new=True,
        at_ms=2**42,
        capacity=1000,
        is_direct=True,
        longest_ms=86_400_000,
        source=Credential(CredentialKind.JWT, "i" * MAX_ISSUER),
        secret_id="secret_" + "0" * 24,
    )
    text = UsageAccounts(lambda: ["a-key"]).seal(placed)
    assert contract.parse_account(text) == text


def test_a_pod_can_send_it_back_and_does_not_learn_the_tenant() -> None:
    long = Account("t" * 253, "n" * 63 + "/" + "s" * 63, "c" * 63)
    for account in (PLACED.account, Account("acme", "ns/s", "h100")):
        placed = PlacedConnection(PLACED.record, "u" * 36, account, True, NOW_MS, 64)
        text = UsageAccounts(lambda: ["a-key"]).seal(placed)
        assert contract.parse_account(text) == text
        assert account.tenant not in text
    text = UsageAccounts(lambda: ["a-key"]).seal(
        PlacedConnection(PLACED.record, "u" * 36, long, True, NOW_MS, 64)
    )
    assert contract.parse_account(text) == text


@pytest.mark.parametrize("text", ["", "x", "gAAAA" + "A" * 200, "ü" * 9], ids=range(4))
def test_other_texts_say_nothing(text: str) -> None:
    accounts = UsageAccounts(lambda: ["a-key"])
    assert accounts.open(text) is None
    made = accounts.seal(PLACED)
    assert accounts.open(made[:-4] + "AAA=") is None
    assert (
        accounts.open(Fernet(Fernet.generate_key()).encrypt(json.dumps([]).encode()).decode())
        is None
    )
    without = UsageAccounts(lambda: [])
    assert without.seal(PLACED) == ""
    assert without.open(made) is None


@pytest.mark.parametrize(
    ("connected_ms", "counted_ms"), [(0, 0), (4_000, 4_000), (10_000, 10_000), (10**12, 10_000)]
)
def test_a_claim_is_no_longer_than_the_time_since_the_placement(
    connected_ms: int, counted_ms: int
) -> None:
    found = usage.claim(PLACED, "uid-p1", "acme/p1", connected_ms, NOW_MS + 10_000)
    assert found is not None
    assert found.figures == usage.of(
        sessions=1, session_ms=counted_ms, gpu_ms=round(counted_ms / 4)
    )
    assert (found.record, found.account, found.at_ms) == (PLACED.record, PLACED.account, NOW_MS)


def test_a_claim_is_never_negative_and_never_for_a_connection_of_another_pod() -> None:
    found = usage.claim(PLACED, "uid-p1", "acme/p1", 5, NOW_MS - 10_000)  # clocks differ
    assert found is not None
    assert found.figures[usage.FIGURES.index("session_ms")] == 0
    assert usage.claim(PLACED, "uid-p2", "acme/p2", 5, NOW_MS + 10) is None
