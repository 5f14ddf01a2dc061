"""Tests of following one person and of steadying the boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import tracking
from avatar_runtime.preparation.tracking import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT, RIGHT = Box(100, 100, 200, 220), Box(400, 100, 480, 200)


def _moved(box: Box, dx: int) -> Box:
    return Box(box.x1 + dx, box.y1, box.x2 + dx, box.y2)


def test_the_largest_face_is_followed_when_another_one_becomes_larger() -> None:
    index, track = Track().follow([LEFT, RIGHT])
    assert index == 0
    grown = Box(380, 50, 560, 260)
    index, track = track.follow([grown, _moved(LEFT, 5)])
    assert index == 1
    assert track.box == _moved(LEFT, 5)


def test_another_person_far_away_is_not_the_same_person() -> None:
    _, track = Track().follow([LEFT])
    index, track = track.follow([RIGHT])
    assert index is None
    assert track == Track(LEFT, 1)
    index, track = track.follow([_moved(LEFT, 20)])
    assert index == 0
    assert track.missed == 0


def test_the_reach_grows_while_the_person_is_missing() -> None:
    moved = _moved(LEFT, 150)  # 1.5 widths
    assert Track(LEFT, 2).follow([moved])[0] is None
    assert Track(LEFT, 3).follow([moved])[0] == 0


def test_after_a_second_the_largest_face_is_followed() -> None:
    assert Track(LEFT, tracking.LOST_FRAMES - 1).follow([Box(5000, 0, 5100, 100)])[0] is None
    assert Track(LEFT, tracking.LOST_FRAMES).follow([Box(5000, 0, 5100, 100)])[0] == 0


def test_no_face_at_the_start_waits_for_one() -> None:
    assert Track().follow([]) == (None, Track())


@pytest.mark.parametrize(
    ("valid", "nearest"),
    [
        ("1", [0]),
        ("0010", [2, 2, 2, 2]),
        ("10001", [0, 0, 0, 4, 4]),
        ("1001", [0, 0, 3, 3]),
    ],
)
def test_a_missing_box_comes_from_the_nearest_frame(valid: str, nearest: list[int]) -> None:
    assert tracking.nearest_valid([c == "1" for c in valid]) == nearest


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_no_valid_frame_is_nearer(valid: list[bool]) -> None:
    for i, nearest in enumerate(tracking.nearest_valid(valid)):
        assert valid[nearest]
        assert abs(i - nearest) == min(abs(i - j) for j, known in enumerate(valid) if known)


def _line(n: int) -> NDArray[np.float64]:
    return np.outer(np.arange(n), [1.0, -2.0, 3.0, 0.5]) + 100


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_an_even_movement_is_unchanged(n: int) -> None:
    smoothed = tracking.smooth(_line(n), [True] * n, [], 2.0)
    np.testing.assert_allclose(smoothed, _line(n), atol=1e-9)


def test_jitter_is_reduced_and_nothing_lags() -> None:
    noise = np.random.default_rng(1).normal(0, 1, (400, 4))
    smoothed = tracking.smooth(_line(400) + noise, [True] * 400, [], 2.0) - _line(400)
    assert smoothed.std() < 0.45  # a Gaussian of 2 frames leaves 0.376 of white noise
    assert abs(smoothed.mean()) < 0.1


def test_no_smoothing_returns_the_boxes_of_the_detector() -> None:
    boxes = np.random.default_rng(1).normal(0, 1, (9, 4))
    np.testing.assert_array_equal(tracking.smooth(boxes, [True] * 9, [], 0.0), boxes)


def test_a_jump_and_a_missing_face_stay_sharp() -> None:
    boxes = np.full((20, 4), 10.0)
    boxes[8:] = 200.0
    boxes[14] = 0.0
    valid = [i != 14 for i in range(20)]
    np.testing.assert_allclose(tracking.smooth(boxes, valid, [8], 2.0), boxes)
    blurred = tracking.smooth(boxes, valid, [], 2.0)
    assert not np.allclose(blurred, boxes)
