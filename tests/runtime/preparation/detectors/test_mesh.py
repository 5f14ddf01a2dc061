from __future__ import annotations

from math import cos, radians, sin
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.preparation.detectors import mesh, mesh_points
from avatar_runtime.preparation.detectors.blazeface import Detection
from avatar_runtime.preparation.detectors.mesh import Roi

if TYPE_CHECKING:
    from numpy.typing import NDArray


def head(yaw: float = 0, pitch: float = 0, roll: float = 0) -> NDArray[np.float32]:
    """Return a head of made proportions, turned by degrees; the depth grows away from us."""
    points = np.zeros((468, 3), np.float64)
    for point, place in {
        10: (0, -50, 0), 152: (0, 50, 0), 234: (-40, 0, 30), 454: (40, 0, 30),
        33: (-20, -10, 0), 263: (20, -10, 0), 195: (0, 4, -10), 5: (0, 8, -12),
        13: (0, 25, 0), 14: (0, 25, 0),
    }.items():  # fmt: skip
        points[point] = place
    y, p, r = radians(yaw), radians(pitch), radians(roll)
    to_the_right = np.array([[cos(y), 0, -sin(y)], [0, 1, 0], [sin(y), 0, cos(y)]])
    upwards = np.array([[1, 0, 0], [0, cos(p), sin(p)], [0, -sin(p), cos(p)]])
    clockwise = np.array([[cos(r), -sin(r), 0], [sin(r), cos(r), 0], [0, 0, 1]])
    return np.asarray(points @ (clockwise @ upwards @ to_the_right).T, np.float32)


@pytest.mark.parametrize("axis", ["yaw", "pitch", "roll"])
@pytest.mark.parametrize("degrees", [-40, 0, 25])
def test_a_rotation_about_one_axis_is_measured(axis: str, degrees: int) -> None:
    pose = mesh_points.head_pose(head(**{axis: degrees}))
    expected = {"yaw": 0, "pitch": 0, "roll": 0, axis: degrees}
    assert {a: getattr(pose, a) for a in expected} == pytest.approx(expected, abs=1e-3)


def test_a_face_that_looks_to_the_right_has_its_nose_there() -> None:
    turned = head(yaw=30)
    assert mesh_points.nose_point(turned)[0] > 0
    assert mesh_points.head_pose(turned).yaw > 0
    assert mesh_points.nose_point(head(pitch=30))[1] < mesh_points.nose_point(head())[1]


def test_the_lip_gap_is_a_share_of_the_face_height_at_any_roll() -> None:
    closed, opened, crossed = head(), head(), head()
    opened[14, 1] += 6
    crossed[14, 1] -= 3
    assert mesh_points.lip_gap(closed) == 0
    assert mesh_points.lip_gap(opened) == pytest.approx(0.06)
    assert mesh_points.lip_gap(crossed) == 0
    assert mesh_points.lip_gap(np.zeros((468, 3), np.float32)) == 0
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    assert mesh_points.lip_gap(opened @ turn) == pytest.approx(0.06)


def test_the_tables_name_points_of_the_mesh_once() -> None:
    for table in (
        mesh_points.OVAL, mesh_points.NOSE, mesh_points.OUTER_LIPS, mesh_points.INNER_LIPS,
        mesh_points.BOUNDING,
    ):  # fmt: skip
        assert len(set(table)) == len(table)
        assert all(0 <= point < mesh_points.COUNT for point in table)
    assert len(mesh_points.OVAL) == 36
    assert 152 in mesh_points.BOUNDING
    assert 10 not in mesh_points.BOUNDING


def test_the_square_of_a_detection_is_upright_to_the_eyes() -> None:
    points = np.zeros((6, 2))
    points[0], points[1] = (10, 10), (20, 20)
    found = Detection(0.9, np.array([[0.0, 10], [40, 30]]), points)
    assert mesh.roi_of_detection(found) == Roi(20, 20, 60, radians(45))


def test_the_cut_square_shows_the_pixels_at_their_places() -> None:
    rows, columns = np.indices((64, 64))
    frame = np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)
    whole = mesh.cut(frame, Roi(32, 32, 64, 0), 64)
    assert np.array_equal(whole, frame)
    # A quarter turn clockwise: the right of the square shows what is below in the frame.
    turned = mesh.cut(frame, Roi(32, 32, 64, radians(90)), 64)
    assert np.array_equal(turned[:, :, 0], columns)
    assert np.array_equal(turned[:, :, 1], 63 - rows)


def test_a_large_square_is_averaged_and_the_edge_is_repeated() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 200
    small = mesh.cut(stripes, Roi(256, 256, 512, 0), 64)
    assert np.abs(small.astype(int) - 100).max() <= 4
    grey = np.full((8, 8, 3), 77, np.uint8)
    assert (mesh.cut(grey, Roi(0, 0, 40, 0.3), 16) == 77).all()
