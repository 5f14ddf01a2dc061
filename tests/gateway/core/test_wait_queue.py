from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.wait_queue import (
    GRANT_HISTORY,
    RETRYABLE_CODES,
    UPDATE_S,
    Announcement,
    eta_ms,
    is_due,
    is_own_limit,
    is_temporary,
    round_s,
    with_grant,
)
from avatar_gateway.errors import Rejection


def test_the_last_twenty_grants_are_kept() -> None:
    grants: tuple[float, ...] = ()
    for second in range(25):
        grants = with_grant(grants, float(second))
    assert grants == tuple(float(second) for second in range(5, 25))
    assert GRANT_HISTORY == 20


@pytest.mark.parametrize(
    ("rejection", "own", "temporary"),
    [
        (Rejection("no_capacity", ""), False, True),
        (Rejection("quota_exceeded", "", param="sessions"), True, True),
        (Rejection("quota_exceeded", "", param="sessionsPerService"), True, True),
        (Rejection("quota_exceeded", "", param="minutesPerMonth"), False, False),
        (Rejection("model_not_found", "", param="sessions"), False, False),
    ],
    ids=["no slot", "sessions", "sessions per service", "minutes", "unknown"],
)
def test_a_caller_waits_for_slots_and_for_the_sessions_of_its_tenant(
    rejection: Rejection, own: bool, temporary: bool
) -> None:
    assert is_own_limit(rejection) is own
    assert is_temporary(rejection) is temporary


def test_positions_are_computed_less_often_in_a_long_queue() -> None:
    assert [round_s(callers) for callers in (1, 500, 2000)] == [0.1, 0.1, 0.4]


@pytest.mark.parametrize("code", ["no_capacity", "not_ready", "draining"])
def test_a_caller_waits_after_a_temporary_rejection(code: str) -> None:
    assert code in RETRYABLE_CODES


def test_a_caller_does_not_wait_after_a_permanent_rejection() -> None:
    assert not RETRYABLE_CODES & {"model_not_found", "invalid_query", "unauthenticated"}


@pytest.mark.parametrize(
    ("grants", "now", "eta"),
    [
        ((), 10.0, None),
        ((9.0,), 10.0, None),
        ((10.0, 10.0), 10.0, None),
        ((10.0, 10.0), 10.2, 300),
        ((8.0, 10.0), 10.0, 3000),  # one slot per second
        ((8.0, 10.0), 16.0, 12_000),  # then no slot for 6 s
    ],
    ids=["no grant", "one grant", "at once", "just after", "steady", "slowing"],
)
def test_the_estimate_follows_the_recent_grants(
    grants: tuple[float, ...], now: float, eta: int | None
) -> None:
    assert eta_ms(3, grants, now) == eta


@pytest.mark.parametrize(
    ("last", "position", "after_s", "due"),
    [
        (None, 900, 0.0, True),
        (4, 3, 0.0, True),
        (2, 1, 0.0, True),
        (1, 1, 60.0, False),
        (50, 50, 60.0, False),
        (50, 49, UPDATE_S - 0.1, False),
        (50, 49, UPDATE_S, True),
        (50, 26, 0.0, False),
        (50, 25, 0.0, True),
    ],
)
def test_a_caller_far_behind_gets_a_change_of_its_position_only_when_it_matters(
    last: int | None, position: int, after_s: float, due: bool
) -> None:
    announced = None if last is None else Announcement(last, 100.0)
    assert is_due(announced, position, 100.0 + after_s) is due


@given(st.integers(1, 400), st.sampled_from([0.1, 1.0, 7.0]))
def test_the_events_of_a_queue_grow_with_its_length_and_its_time(length: int, gap_s: float) -> None:
    """The first caller leaves again and again; each position was an event of each caller before."""
    last: dict[int, Announcement] = {}
    events = 0
    for gone in range(length):
        now = gone * gap_s
        for position, caller in enumerate(range(gone, length), start=1):
            if is_due(last.get(caller), position, now):
                last[caller] = Announcement(position, now)
                events += 1
    assert events <= length * (3 + length.bit_length() + length * gap_s / UPDATE_S)
    assert all(last[caller].position == 1 for caller in range(length))
