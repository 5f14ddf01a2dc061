"""Tests of the rate of callers."""

from __future__ import annotations

import random
from math import exp, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling.arrivals import (
    BURST_S,
    CHANGE,
    COVERED,
    FALSE_ALARM,
    LONG_S,
    SLOW_S,
    Arrivals,
    headroom,
)


@pytest.mark.parametrize(
    ("mean", "slots"), [(0, 0), (0.01, 1), (0.05, 1), (0.1, 2), (0.5, 3), (1, 4), (2, 6), (10, 16)]
)
def test_headroom_covers_the_caller_that_starts_a_pod_and_those_after(
    mean: float, slots: int
) -> None:
    assert headroom(mean) == slots


@given(st.floats(0.001, 200))
def test_headroom_lasts_in_95_of_100_starts(mean: float) -> None:
    slots = headroom(mean)
    assert chance_of_at_most(slots - 1, mean) >= COVERED
    assert slots == 1 or chance_of_at_most(slots - 2, mean) < COVERED
    assert headroom(mean, 4.0) >= slots or mean < 1


def chance_of_at_most(count: int, mean: float) -> float:
    """Return the exact chance that a Poisson count does not exceed `count`."""
    term = total = exp(-mean)
    for each in range(1, count + 1):
        term *= mean / each
        total += term
    return total


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


def test_two_callers_after_one_a_minute_are_no_burst() -> None:
    """Issue 13, A4: two callers 2 s apart counted as a burst of one every 3 s."""
    known = record(*range(10, 311, 60), 312, now=312)
    assert known.per_s(312) == pytest.approx(6 / 300)


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_up_to_three_callers_at_once_are_never_a_burst(callers: int) -> None:
    known = record(*(600.0 + index * 0.01 for index in range(callers)), now=600.5)
    assert known.per_s(600.5) == pytest.approx(callers / 300)


def test_ten_callers_within_a_second_are_a_burst_even_after_a_start() -> None:
    known = record(*(3.0 + index * 0.1 for index in range(10)), now=4)
    assert known.per_s(4) == pytest.approx(10 / 6)


@pytest.mark.parametrize("per_hour", [4, 17, 60, 360, 3600])
def test_chance_looks_like_a_burst_or_a_change_as_rarely_as_stated(per_hour: int) -> None:
    """A constant rate for 12,000 callers; each is judged as it comes, as the operator does."""
    callers = 12_000
    chance = random.Random(per_hour)
    known, now, bursts, changes = Arrivals.starting(0.0, 0), 400.0, 0, 0
    for count in range(1, callers + 1):
        now += chance.expovariate(per_hour / 3600)
        known = known.with_count(now, count)
        rate = known.per_s(now)
        if rate != known.within(LONG_S, now) / LONG_S:
            is_change = rate == known.within(SLOW_S, now) / SLOW_S
            changes += is_change
            bursts += not is_change
    assert bursts / callers <= allowed(FALSE_ALARM * len(BURST_S), now / BURST_S[0])
    assert changes / callers <= allowed(CHANGE * 2, now / SLOW_S)


def allowed(chance: float, windows: float) -> float:
    """Return a bound of an observed frequency: 3 standard deviations of independent windows."""
    return chance + 3 * sqrt(chance / windows)


def test_a_quiet_service_sees_a_burst_by_chance_once_in_two_days() -> None:
    """A hundred days with 403 callers each: 1.4 sessions of 300 s in the mean."""
    chance = random.Random(1)
    known, now, count, bursts = Arrivals.starting(0.0, 0), 400.0, 0, 0
    while now < 100 * 86400:
        now += chance.expovariate(1.4 / 300)
        count += 1
        known = known.with_count(now, count)
        slow = known.within(SLOW_S, now) / SLOW_S
        bursts += known.per_s(now) not in (known.within(LONG_S, now) / LONG_S, slow)
    assert bursts <= 50, bursts


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
