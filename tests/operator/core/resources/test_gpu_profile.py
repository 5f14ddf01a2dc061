"""How a measured curve goes on where nothing was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.resources.gpu_profile import Calibration, Curve, Device, Floor
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from tests.operator.conftest import Make

VARIANT = "v15/sd-vae/fp16"


def test_what_was_measured_wins_and_the_rest_is_scaled_to_its_end(make: Make) -> None:
    profile = make.profile()  # given up to 64
    measured = Curve(VARIANT, 2000, 100, ((1, 30.0), (8, 215.2)))  # twice as slow at 8
    calibrated = Calibration(measured, Device.CUDA, "acme/p0", "n1", "")
    curve = replace(profile, calibrations=(calibrated,)).curve(VARIANT, "acme")
    assert curve is not None
    assert curve.largest == 64
    assert curve.batch_ms(8) == 215.2
    assert curve.batch_ms(64) == 2 * 790.5
    assert curve.floor == Floor(8, 3100, 306)
    assert curve.memory_mib(8) == 2800
    assert curve.memory_mib(16) == 3100 + 16 * 306  # never less than the profile fears


def test_more_memory_than_given_is_believed_beyond_the_end(make: Make) -> None:
    measured = Curve(VARIANT, 9000, 1000, ((1, 22.2), (8, 107.6)))
    curve = measured.extended_by(make.profile().given(VARIANT))
    assert curve.memory_mib(16) == 25000


def test_a_measurement_that_reaches_as_far_needs_no_continuation(make: Make) -> None:
    given_curve = make.profile().given(VARIANT)
    assert given_curve is not None
    whole = replace(given_curve, base_mib=1)
    assert whole.extended_by(given_curve) is whole
    assert whole.extended_by(None) is whole
    beyond = replace(whole, frame_batch_ms=((1, 1.0), (128, 999.0)))
    assert beyond.extended_by(given_curve) is beyond


@given(st.integers(1, 64), st.floats(0.01, 100), st.integers(1, 20_000), st.integers(1, 2000))
def test_a_continued_curve_still_rises(
    make: Make, end: int, factor: float, base: int, per_frame: int
) -> None:
    known = make.profile().given(VARIANT)
    assert known is not None
    points = tuple((b, known.batch_ms(b) * factor) for b in range(1, end + 1))
    curve = Curve(VARIANT, base, per_frame, points).extended_by(known)
    times = [curve.batch_ms(b) for b in range(1, 65)]
    memory = [curve.memory_mib(b) for b in range(1, 65)]
    assert times == sorted(times)
    assert memory == sorted(memory)


def test_the_labels_of_new_nodes_are_read_and_bounded(make: Make) -> None:
    labels = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert make.profile(newNodes={"labels": labels}).new_node_labels == tuple(labels.items())
    assert make.profile().new_node_labels == ()
    many = {f"key-{number}": "x" for number in range(17)}
    with pytest.raises(InvalidResource, match=r"newNodes.labels is 17, must be at most 16 labels"):
        make.profile(newNodes={"labels": many})
