from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.wait_queue import (
    GRANT_HISTORY,
    MAX_LENGTH,
    RETRYABLE_CODES,
    UPDATE_S,
    Announcement,
    WaitQueue,
    eta_ms,
    is_due,
)


def test_the_longest_waiting_caller_is_next() -> None:
    queue = WaitQueue().with_caller(4).with_caller(9).with_caller(5)
    assert [queue.position(caller_id) for caller_id in (4, 9, 5)] == [1, 2, 3]
    assert queue.without(4).position(9) == 1
    assert queue.with_grant(4, 10.0).callers == (9, 5)


def test_a_queue_is_bounded() -> None:
    queue = WaitQueue(tuple(range(999)))
    assert not queue.is_full
    assert queue.with_caller(MAX_LENGTH).is_full
    assert MAX_LENGTH == 1000


def test_the_last_twenty_grants_are_kept() -> None:
    queue = WaitQueue()
    for second in range(25):
        queue = queue.with_caller(second).with_grant(second, float(second))
    assert queue.grants == tuple(float(second) for second in range(5, 25))
    assert GRANT_HISTORY == 20


def test_changes_of_the_callers_keep_the_grants() -> None:
    queue = WaitQueue((1,), (5.0,))
    assert queue.with_caller(2).grants == queue.without(1).grants == (5.0,)


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


@given(st.lists(st.tuples(st.sampled_from(["arrive", "leave", "served"]), st.integers(0, 30))))
def test_callers_stay_in_the_order_of_their_arrival(steps: list[tuple[str, int]]) -> None:
    queue, order, caller_id = WaitQueue(), list[int](), 0
    for what, which in steps:
        if what == "arrive":
            queue, caller_id = queue.with_caller(caller_id), caller_id + 1
            order.append(caller_id - 1)
        elif order and what == "leave":
            queue = queue.without(left := order[which % len(order)])
            order.remove(left)
        elif order:
            queue = queue.with_grant(order.pop(0), float(which))
        assert list(queue.callers) == order
        assert len(queue.grants) <= GRANT_HISTORY
        assert all(queue.position(caller) == place for place, caller in enumerate(order, start=1))


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
