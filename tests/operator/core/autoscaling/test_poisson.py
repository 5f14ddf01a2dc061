"""Tests of the exact probabilities of counts."""

from __future__ import annotations

from fractions import Fraction
from math import comb, exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling.poisson import MAX_MEAN, MAX_TOTAL, is_rare, quantile


def summed_quantile(mean: float, share: float) -> int:
    """Return the least count that is not passed in `share` of all cases."""
    term = total = exp(-mean)
    count = 0
    while total < share:
        count += 1
        term *= mean / count
        total += term
    return count


@pytest.mark.parametrize(
    ("mean", "slots"),
    [(0.005, 0), (0.01, 0), (0.1, 1), (0.2, 2), (0.5, 3), (1, 4), (2, 6), (5, 11), (20, 31)],
)
def test_quantile_is_the_one_of_published_tables(mean: float, slots: int) -> None:
    assert quantile(0.99, mean) == slots


@given(st.floats(0, 600), st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_quantile_is_exact(mean: float, share: float) -> None:
    assert quantile(share, mean) == summed_quantile(mean, share)


@given(st.floats(0.1, 50), st.integers(1, 40))
def test_an_uncertain_mean_is_a_sum_of_geometric_counts(mean: float, shape: int) -> None:
    """A negative binomial count with a whole shape counts failures before that many successes."""
    success = shape / (shape + mean)
    total, count = 0.0, -1
    while total < 0.95:
        count += 1
        total += comb(count + shape - 1, count) * success**shape * (1 - success) ** count
    assert abs(quantile(0.95, mean, mean**2 / shape) - count) <= (
        1 if abs(total - 0.95) < 1e-9 else 0
    )


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_larger_variance_or_mean_gives_no_fewer(mean: float, variance: float) -> None:
    assert quantile(0.95, mean, variance) >= 0
    assert quantile(0.95, mean) >= mean * 0.99 - 1
    assert quantile(0.95, mean * 1.1) >= quantile(0.95, mean)


def test_means_beyond_the_largest_are_not_underestimated() -> None:
    assert quantile(0.95, 4 * MAX_MEAN) >= 4 * MAX_MEAN + 1.64 * (4 * MAX_MEAN) ** 0.5


@given(st.integers(1, 60), st.integers(0, 61), st.sampled_from([0.02, 0.08, 0.2, 0.8]))
def test_a_count_is_rare_if_its_exact_tail_is(total: int, count: int, fraction: float) -> None:
    exact = Fraction(fraction)
    tail = sum(
        comb(total, n) * exact**n * (1 - exact) ** (total - n) for n in range(count, total + 1)
    )
    if abs(float(tail) - 0.01) > 1e-9 and count <= total:
        assert is_rare(count, total, fraction, 0.01) is (tail < Fraction(0.01))


def test_totals_of_any_size_are_judged_in_bounded_work() -> None:
    assert is_rare(3 * MAX_TOTAL, 10 * MAX_TOTAL, 0.2, 0.01)
    assert not is_rare(2 * 10**17, 10**18, 0.2, 0.01)
