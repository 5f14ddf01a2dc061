from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.arrivals import WINDOW_S, Arrivals


def test_the_rate_counts_the_arrivals_of_the_window() -> None:
    arrivals = Arrivals()
    for at in (0.1, 0.9, 5.0, 9.9):
        arrivals = arrivals.with_one(at)
    assert arrivals.per_s(9.9) == pytest.approx(0.4)
    assert arrivals.per_s(10.5) == pytest.approx(0.2)
    assert arrivals.per_s(100) == 0


def test_the_arrivals_of_one_second_share_an_entry() -> None:
    arrivals = Arrivals()
    for at in (3.0, 3.2, 3.9, 4.0, 4.1):
        arrivals = arrivals.with_one(at)
    assert arrivals.seconds == ((3, 3), (4, 2))


def test_the_window_is_ten_seconds() -> None:
    arrivals = Arrivals().with_one(0.0)
    assert arrivals.per_s(9.9) == 0.1
    assert arrivals.per_s(10.0) == 0


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_the_record_is_bounded_and_exact(times: list[float]) -> None:
    arrivals = Arrivals()
    for at in sorted(times):
        arrivals = arrivals.with_one(at)
        assert len(arrivals.seconds) <= WINDOW_S
    if times:
        last = int(max(times))
        recent = sum(int(at) > last - WINDOW_S for at in times)
        assert arrivals.per_s(max(times)) == pytest.approx(recent / WINDOW_S)
