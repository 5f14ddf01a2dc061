from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core import claims
from avatar_operator.core.claims import EXPIRED_S, GONE_S, Claim, LeaseView
from avatar_operator.core.leader_election import Record

OWN, OTHER = "system/own", "elsewhere/other"


def _record(renewed: str, holder: str = "p0") -> Record:
    return Record(7, holder, 0, 4, renewed, "")


def test_an_object_that_names_this_installation_is_its_own() -> None:
    assert claims.judge(OWN, OWN, None, 0.0) is Claim.OWN


@pytest.mark.parametrize("named", ["", "no-slash", "a/b/c", "../x", "A/b", "a/" + "b" * 254])
def test_an_object_that_names_no_possible_lease_is_free(named: str) -> None:
    assert claims.judge(named, OWN, None, 0.0) is Claim.FREE


def test_the_object_of_another_installation_is_held_until_its_lease_was_read() -> None:
    assert claims.judge(OTHER, OWN, None, 1e9) is Claim.HELD


def test_an_installation_without_a_lease_has_ended_after_a_pause() -> None:
    view = claims.observe(None, None, 100.0)
    view = claims.observe(view, None, 105.0)
    assert claims.judge(OTHER, OWN, view, 100.0 + GONE_S - 0.1) is Claim.HELD
    assert claims.judge(OTHER, OWN, view, 100.0 + GONE_S) is Claim.FREE


def test_a_lease_that_is_created_again_is_alive() -> None:
    view = claims.observe(None, None, 100.0)
    view = claims.observe(view, _record("a"), 109.0)
    assert claims.judge(OTHER, OWN, view, 100.0 + GONE_S) is Claim.HELD


@pytest.mark.parametrize("holder", ["p0", ""], ids=["killed", "released"])
def test_a_lease_that_nobody_renews_belongs_to_nobody_after_a_long_time(holder: str) -> None:
    view = claims.observe(None, _record("a", holder), 100.0)
    assert claims.judge(OTHER, OWN, view, 100.0 + EXPIRED_S - 0.1) is Claim.HELD
    assert claims.judge(OTHER, OWN, view, 100.0 + EXPIRED_S) is Claim.FREE


@given(st.lists(st.floats(0.1, EXPIRED_S - 0.1), min_size=1, max_size=20))
def test_nothing_is_taken_from_an_installation_that_renews_its_lease(gaps: list[float]) -> None:
    now = 0.0
    view: LeaseView | None = None
    for number, gap in enumerate(gaps):
        view = claims.observe(view, _record(str(number)), now)
        now += gap
        assert claims.judge(OTHER, OWN, view, now) is Claim.HELD


def test_the_claim_is_read_from_a_status() -> None:
    assert claims.read_claim({"operator": OTHER}) == OTHER
    assert claims.read_claim({"operator": 7}) == ""
    assert claims.read_claim({}) == ""
