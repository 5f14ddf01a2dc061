"""Exact probabilities of counts of callers that come independently of each other.

Nothing here uses the normal distribution, which is wrong for small counts: it puts the 99th
percentile of a count with the mean 0.01 at 1, although 99 of 100 such counts are 0.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp, floor, lgamma, log, log1p, sqrt
from typing import Final

MAX_MEAN: Final = 5000.0
"""Larger means are scaled down to this one: it bounds the work, and errs on the high side."""

MAX_TOTAL: Final = 1_000_000
"""Larger totals are scaled down to this one: it bounds the work, and finds fewer rare counts."""

NEGLIGIBLE_SD: Final = 9.0
"""Counts this many standard deviations below the mean have no relevant probability."""

MIN_SHAPE: Final = 1e-9
"""Smaller shapes of the gamma distribution are raised to this one; the count is 0 with either."""

CERTAIN: Final = 1e-6
"""The mean counts as certain if its variance is below this fraction of it."""


@lru_cache(maxsize=4096)
def quantile(share: float, mean: float, variance: float = 0.0) -> int:
    """Return the least number that a count does not exceed in at least `share` of all cases.

    The count has a Poisson distribution with this mean. If the mean is uncertain, `variance` is
    its variance: it then has a gamma distribution, and the count a negative binomial one.
    """
    if mean <= 0:
        return 0
    if mean > MAX_MEAN:
        scale = mean / MAX_MEAN
        return ceil(scale * quantile(share, MAX_MEAN, variance / scale**2))
    shape = max(MIN_SHAPE, mean**2 / variance) if variance > CERTAIN * mean else None
    count = max(0, floor(mean - NEGLIGIBLE_SD * sqrt(mean + variance)))
    term = total = exp(_log_probability(count, mean, shape))
    while total < share and term > 0:
        growth = mean if shape is None else (count + shape) * mean / (shape + mean)
        count += 1
        term *= growth / count
        total += term
    return count


@lru_cache(maxsize=4096)
def is_rare(count: int, total: int, fraction: float, chance: float) -> bool:
    """Return whether so many of `total` callers fall into a part of the time only rarely.

    If the rate of callers is constant, each one falls into a part of the time with the probability
    `fraction`, so the number of those that do has a binomial distribution, whatever the rate is.
    The count is rare if the probability of at least `count` is below `chance`, which is at most
    one half.
    """
    if total > MAX_TOTAL:
        count, total = floor(count * MAX_TOTAL / total), MAX_TOTAL
    if count <= total * fraction:
        return False
    ways = lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)
    term = exp(ways + count * log(fraction) + (total - count) * log1p(-fraction))
    tail = term
    while tail < chance and count < total and term > tail * 1e-12:
        term *= (total - count) / (count + 1) * fraction / (1 - fraction)
        count += 1
        tail += term
    return tail < chance


def _log_probability(count: int, mean: float, shape: float | None) -> float:
    """Return the logarithm of the probability of a count; without a shape the mean is certain."""
    if shape is None:
        return count * log(mean) - mean - lgamma(count + 1)
    ways = lgamma(count + shape) - lgamma(shape) - lgamma(count + 1)
    return ways - shape * log1p(mean / shape) + count * log(mean / (shape + mean))
