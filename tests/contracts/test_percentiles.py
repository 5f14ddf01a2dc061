from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.percentiles import percentile


def test_percentiles_are_ranks() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (0, 1, 50, 95, 99, 100)] == [1, 1, 50, 95, 99, 100]
    assert percentile([1.0, 2.0], 95) == 2.0
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


@pytest.mark.parametrize(("percent", "rank"), [(99.9, 999), (95, 950), (14, 140), (55.5, 555)])
def test_ranks_are_exact(percent: float, rank: int) -> None:
    assert percentile(range(1, 1001), percent) == rank


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1), percent=st.integers(0, 100))
def test_enough_values_are_not_above_and_no_lesser_value_will_do(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    lesser = [value for value in values if value < found]
    assert not lesser or 100 * len(lesser) < percent * len(values)
