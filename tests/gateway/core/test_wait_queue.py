from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.wait_queue import GRANT_HISTORY, MAX_LENGTH, WaitQueue, eta_ms


def test_the_longest_waiting_caller_is_next() -> None:
    line = WaitQueue().with_caller(4).with_caller(9).with_caller(5)
    assert [line.position(caller_id) for caller_id in (4, 9, 5)] == [1, 2, 3]
    assert line.without(4).position(9) == 1
    assert line.with_grant(4, 10.0).callers == (9, 5)


def test_a_queue_is_bounded() -> None:
    line = WaitQueue(tuple(range(MAX_LENGTH - 1)))
    assert not line.is_full
    assert line.with_caller(MAX_LENGTH).is_full


@pytest.mark.parametrize(
    ("grants", "now", "eta"),
    [
        ((), 10.0, None),
        ((9.0,), 10.0, None),
        ((8.0, 10.0), 10.0, 3000),  # one slot a second
        ((8.0, 10.0), 16.0, 12_000),  # and now none for six
    ],
    ids=["nobody", "one", "steady", "slowing"],
)
def test_the_estimate_follows_the_recent_grants(
    grants: tuple[float, ...], now: float, eta: int | None
) -> None:
    assert eta_ms(3, grants, now) == eta


@given(st.lists(st.tuples(st.sampled_from(["come", "leave", "served"]), st.integers(0, 30))))
def test_callers_stay_in_the_order_of_their_arrival(steps: list[tuple[str, int]]) -> None:
    line, order, caller_id = WaitQueue(), list[int](), 0
    for what, which in steps:
        if what == "come":
            line, caller_id = line.with_caller(caller_id), caller_id + 1
            order.append(caller_id - 1)
        elif order and what == "leave":
            line = line.without(gone := order[which % len(order)])
            order.remove(gone)
        elif order:
            line = line.with_grant(order.pop(0), float(which))
        assert list(line.callers) == order
        assert len(line.grants) <= GRANT_HISTORY
        assert all(line.position(t) == place for place, t in enumerate(order, start=1))
