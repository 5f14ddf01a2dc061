"""The curve of a GPU profile between, before and after its points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.engine.device import Curve


@pytest.mark.parametrize(
    ("batch", "ms"), [(1, 10), (2, 12), (4, 16), (6, 26), (8, 36), (12, 56), (16, 76)]
)
def test_the_time_of_a_batch_is_interpolated_and_extrapolated_linearly(
    batch: int, ms: float
) -> None:
    curve = Curve("v15", 4000, 1000, ((1, 10.0), (4, 16.0), (8, 36.0)))

    assert curve.batch_ms(batch) == pytest.approx(ms)


@given(batch=st.integers(1, 200))
def test_a_larger_batch_takes_longer(batch: int) -> None:
    curve = Curve("v15/sd-vae/fp16", 3000, 300, ((1, 20.0), (4, 50.0), (8, 100.0)))

    assert curve.batch_ms(batch + 1) > curve.batch_ms(batch) > 0


def test_sizes_below_the_first_point_use_the_line_of_the_first_two() -> None:
    assert Curve("v15", 0, 0, ((4, 20.0), (8, 28.0))).batch_ms(2) == pytest.approx(16)


@pytest.mark.parametrize(("batch", "ms"), [(2, 10), (4, 20), (6, 30)])
def test_a_curve_of_one_point_is_proportional(batch: int, ms: float) -> None:
    assert Curve("v15", 0, 0, ((4, 20.0),)).batch_ms(batch) == pytest.approx(ms)


def test_the_document_has_the_fields_of_a_gpu_profile() -> None:
    assert Curve("v15", 4000, 1000, ((1, 10.126), (4, 16.0))).as_document() == {
        "model": "v15",
        "baseMiB": 4000,
        "perFrameMiB": 1000,
        "frameBatchMs": [[1, 10.13], [4, 16.0]],
    }
