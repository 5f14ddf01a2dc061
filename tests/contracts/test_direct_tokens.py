from __future__ import annotations

import pytest

from avatar_contracts import direct_tokens
from avatar_contracts.direct_tokens import MAX_CHARACTERS, DirectClaims, make, read

CLAIMS = DirectClaims("p1", "acme/concierge", "0" * 32, 1000)


def test_a_token_is_read_with_the_key_that_made_it() -> None:
    token = make("key", CLAIMS)
    assert token.startswith("ot_")
    assert read(token, ["other", "key"]) == CLAIMS
    assert read(token, ["other", ""]) is None
    assert read(token, []) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
        lambda token: token.replace("ot_", "ot_A"),
        lambda token: token.upper(),
        lambda token: token + "\n",
        lambda token: token.partition(".")[0],
        lambda token: "ot_" + "A" * MAX_CHARACTERS + "." + "0" * 64,
        lambda token: "",
    ],
    ids=["mac", "claims", "upper case", "line", "no mac", "long", "empty"],
)
def test_a_changed_token_is_not_read(change: object) -> None:
    assert callable(change)
    assert read(change(make("key", CLAIMS)), ["key"]) is None


@pytest.mark.parametrize(
    "claims",
    [
        DirectClaims("p1", "acme/concierge", "short", 1),
        DirectClaims("p" * 318, "acme/concierge", "0" * 32, 1),
        DirectClaims("p1", "acme/concierge", "0" * 32, "soon"),  # type: ignore[arg-type]
        DirectClaims(None, "acme/concierge", "0" * 32, 1),  # type: ignore[arg-type]
    ],
    ids=["nonce", "long", "time", "pod"],
)
def test_claims_of_other_types_are_not_read(claims: DirectClaims) -> None:
    assert direct_tokens.read(make("key", claims), ["key"]) is None
