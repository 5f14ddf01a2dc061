"""Percentiles by the nearest-rank method: always one of the values."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Return the least value that `percent` % of all values do not exceed; `None` without values.

    `percent` is from 0 to 100; 0 gives the least value.
    """
    ordered = sorted(values)
    if not ordered:
        return None
    # As a fraction of its decimal digits: 99.9 % of 1000 is rank 999, not 1000.
    rank = ceil(Fraction(str(percent)) * len(ordered) / 100)
    return ordered[max(rank, 1) - 1]
