"""Tests of the rate of callers."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling.arrivals import Arrivals, at_least, at_most


def poisson_quantile(mean: float, share: float) -> int:
    """Return the exact quantile: the least count that is not passed in `share` of all cases."""
    term = total = exp(-mean)
    count = 0
    while total < share:
        count += 1
        term *= mean / count
        total += term
    return count


@pytest.mark.parametrize(
    ("mean", "slots"), [(0.5, 3), (1, 4), (2, 6), (5, 11), (10, 18), (20, 31), (50, 67), (100, 124)]
)
def test_bound_is_the_published_one_and_next_to_the_exact_quantile(mean: float, slots: int) -> None:
    assert at_most(mean) == slots
    assert 0 <= at_most(mean) - poisson_quantile(mean, 0.99) <= 1


def record(*seconds: float, now: float) -> Arrivals:
    """Return the record of callers that came at these seconds, watched since 0."""
    known = Arrivals.starting(0.0, 0)
    for count, second in enumerate(seconds, start=1):
        known = known.with_count(second, count)
    return known.with_count(now, len(seconds))


def test_steady_callers_count_by_the_slow_window() -> None:
    known = record(*range(1, 121, 2), now=121)
    assert known.per_s(121) == pytest.approx(0.5, rel=0.05)


def test_single_callers_are_no_burst() -> None:
    assert record(50.0, 99.0, now=100).per_s(100) == pytest.approx(2 / 101)


def test_a_burst_counts_by_the_fast_window_at_once() -> None:
    known = record(*(100 + i * 0.1 for i in range(30)), now=103)
    assert known.per_s(103) == pytest.approx(30 / 6)


def test_rate_falls_to_nothing_five_minutes_after_the_last_caller() -> None:
    known = record(10.0, 11.0, now=12)
    assert known.per_s(60) == pytest.approx(2 / 61)
    assert known.per_s(309) == pytest.approx(2 / 300)
    assert known.per_s(312) == 0


def test_a_minute_that_chance_explains_moves_nothing() -> None:
    steady = [2.0 * index for index in range(150)]  # 30 a minute
    more = sorted([*steady, *(241.0 + 7 * index for index in range(8))])
    assert record(*more, now=300).per_s(300) == pytest.approx(158 / 300, rel=0.02)


def test_a_minute_that_chance_does_not_explain_is_followed_up_and_down() -> None:
    steady = [2.0 * index for index in range(120)]
    doubled = [*steady, *(240 + index * 0.75 for index in range(80))]
    assert record(*doubled, now=300).per_s(300) == pytest.approx(80 / 60, rel=0.05)
    assert record(*steady, now=300).per_s(300) == pytest.approx(0.0, abs=0.02)


@given(st.floats(0, 200))
def test_the_low_bound_mirrors_the_high_one(mean: float) -> None:
    assert 0 <= at_least(mean) <= mean <= at_most(mean)
    assert at_most(mean, 4.0) >= at_most(mean)


def test_nothing_is_taken_for_a_rate_in_the_first_moment() -> None:
    known = Arrivals.starting(1000.0, 5000)
    assert known.per_s(1000.0) == 0
    assert known.with_count(1000.2, 5001).per_s(1000.2) == pytest.approx(1 / 60)


def test_count_that_falls_begins_anew() -> None:
    known = record(10.0, 11.0, now=12).with_count(13.0, 0)
    assert known.per_s(13.0) == 0
    assert known.with_count(14.0, 1).within(6, 14.0) == 1


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50)), max_size=200))
def test_record_stays_small_and_counts_no_more_than_came(steps: list[tuple[float, int]]) -> None:
    known, now, count = Arrivals.starting(0.0, 0), 0.0, 0
    came: list[tuple[float, int]] = []
    for wait_s, callers in steps:
        now += wait_s
        count += callers
        came.append((now, callers))
        known = known.with_count(now, count)
        assert len(known.counts) <= 303
        for window_s in (6.0, 60.0, 300.0):
            least = sum(n for at, n in came if at > now - window_s + 1)
            most = sum(n for at, n in came if at > now - window_s - 1)
            assert least <= known.within(window_s, now) <= most
