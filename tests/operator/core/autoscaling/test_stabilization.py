"""Tests of the memory of what was wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling.stabilization import BUCKETS, Recommendations

WINDOW_S = 120.0


def test_a_wish_counts_until_the_window_has_passed_its_end() -> None:
    known = Recommendations.starting(0.0, 8).with_recommendation(50.0, 3, WINDOW_S)
    assert known.maximum(169.9, WINDOW_S) == 8
    assert known.maximum(170.0, WINDOW_S) == 3


def test_a_wish_that_nobody_repeats_still_holds() -> None:
    assert Recommendations.starting(0.0, 8).maximum(10_000.0, WINDOW_S) == 8


def test_a_young_record_proves_nothing() -> None:
    known = Recommendations.starting(100.0, 1)
    assert not known.covers(219.9, WINDOW_S)
    assert known.covers(220.0, WINDOW_S)


def test_it_says_when_the_peak_falls() -> None:
    known = Recommendations.starting(0.0, 8).with_recommendation(200.0, 3, WINDOW_S)
    assert known.drops_after_s(210.0, WINDOW_S) == pytest.approx(110.0)
    assert known.drops_after_s(320.0, WINDOW_S) == 0.0


def test_it_says_when_a_young_record_begins_to_prove() -> None:
    assert Recommendations.starting(100.0, 3).drops_after_s(130.0, WINDOW_S) == pytest.approx(90.0)


@given(
    st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, 9)), min_size=1, max_size=300),
    st.floats(1, 200),
)
def test_peak_is_the_true_one_but_for_a_bucket(
    steps: list[tuple[float, int]], window_s: float
) -> None:
    known, now = Recommendations.starting(0.0, 5), 0.0
    spans: list[tuple[float, float, int]] = []  # from, to, wish
    begun, wish = 0.0, 5
    for wait_s, pods in steps:
        now += wait_s
        if pods != wish:
            spans.append((begun, now, wish))
            begun, wish = now, pods
        known = known.with_recommendation(now, pods, window_s)
        peak = known.maximum(now, window_s)
        slack_s = window_s / BUCKETS
        assert peak >= max([wish, *(w for _, to, w in spans if to > now - window_s)])
        assert peak <= max([wish, *(w for _, to, w in spans if to >= now - window_s - slack_s)])
        assert len(known.intervals) <= 2 * BUCKETS + 3
