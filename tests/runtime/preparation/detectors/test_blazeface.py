from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.preparation.detectors import blazeface
from avatar_runtime.preparation.detectors.blazeface import Detection
from avatar_runtime.preparation.detectors.regions import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Raw = tuple[NDArray[np.float32], NDArray[np.float32]]

CELLS = 48


def raw(cell: int, score: float, values: list[float]) -> Raw:
    scores = np.full(CELLS * CELLS, -100, np.float32)
    boxes = np.zeros((CELLS * CELLS, 16), np.float32)
    scores[cell], boxes[cell] = score, values
    return scores, boxes


def detection(x: float, y: float, side: float, score: float) -> Detection:
    corners = np.array([[x, y], [x + side, y + side]], np.float64)
    return Detection(score, corners, np.full((6, 2), x, np.float64))


def test_a_raw_box_is_relative_to_the_centre_of_its_cell() -> None:
    # Row 2, column 5: the centre of the cell lies at (22, 10) of 192.
    values = [2.0, -2.0, 24, 48, *[1.0, 2.0] * 6]
    (found,) = blazeface.decode(*raw(2 * CELLS + 5, 0.0, values), Region(1000, 500, 384))
    assert found.score == 0.5
    assert found.corners == pytest.approx(np.array([[1024, 468], [1072, 564]]))
    assert found.points == pytest.approx(np.array([[1046, 524]] * 6))
    assert found.side == pytest.approx(96)


@pytest.mark.parametrize(
    ("score", "values"),
    [(-0.01, [0.0, 0, 24, 48]), (9.0, [0.0, 0, -1, 48]), (9.0, [0.0, 0, 24, 0])],
    ids=["low score", "negative width", "no height"],
)
def test_boxes_that_are_none_are_left_out(score: float, values: list[float]) -> None:
    assert blazeface.decode(*raw(7, score, values + [0.0] * 12), Region(0, 0, 192)) == []


def test_huge_scores_do_not_overflow() -> None:
    (found,) = blazeface.decode(*raw(7, 1e30, [0.0, 0, 9, 9] + [0.0] * 12), Region(0, 0, 192))
    assert found.score == pytest.approx(1)


def test_boxes_of_one_face_become_their_weighted_mean() -> None:
    first, second, far = (
        detection(0, 0, 10, 0.6),
        detection(2, 0, 10, 0.9),
        detection(50, 0, 9, 0.7),
    )
    kept = blazeface.suppress([first, second, far])
    assert [d.score for d in kept] == [0.9, 0.7]
    assert kept[0].corners[0] == pytest.approx([1.2, 0])  # (0 * 0.6 + 2 * 0.9) / 1.5
    assert kept[0].points[0] == pytest.approx([1.2, 1.2])
    assert kept[1].corners.tolist() == far.corners.tolist()
    assert blazeface.suppress([]) == []


def test_overlap_is_the_intersection_over_the_union() -> None:
    one = detection(0, 0, 10, 1)
    assert blazeface.overlap(one, one) == 1
    assert blazeface.overlap(one, detection(5, 0, 10, 1)) == pytest.approx(1 / 3)
    assert blazeface.overlap(one, detection(20, 20, 10, 1)) == 0
