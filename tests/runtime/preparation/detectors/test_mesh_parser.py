from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation.detectors import mesh_parser, mesh_points
from avatar_runtime.preparation.faces import Face

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector

BACKGROUND, SKIN, NOSE, MOUTH, LIPS = 0, 1, 10, 11, 12


def test_the_parts_of_a_photograph_get_their_classes(
    detector: MeshDetector, photographs: dict[str, NDArray[np.uint8]]
) -> None:
    picture = photographs["astronaut"]
    (face,) = detector.detect([picture])[0]
    crop = Box(150, 50, 300, 200)
    square = np.zeros((512, 512, 3), np.uint8)
    (classes,) = mesh_parser.MeshParser().parse([square], [face], [crop])
    assert classes.shape == (512, 512)
    assert classes.dtype == np.uint8
    # Pixels that were read off the picture by eye, and what lies there.
    for (x, y), expected in {
        (195, 125): SKIN, (255, 130): SKIN, (225, 168): SKIN,  # cheeks, chin
        (225, 125): NOSE, (222, 145): MOUTH, (222, 152): LIPS,
        (160, 100): BACKGROUND, (285, 110): BACKGROUND,  # hair on both sides
        (225, 190): BACKGROUND,  # neck
    }.items():  # fmt: skip
        row, column = int((y + 0.5 - 50) / 150 * 512), int((x + 0.5 - 150) / 150 * 512)
        assert classes[row, column] == expected, (x, y)


def square_face(mesh: NDArray[np.float32] | None, points: NDArray[np.float32]) -> Face:
    return Face(
        box=Box(0, 0, 100, 100), score=1.0, points=points, nose_point=(50, 50), lip_gap=0.0,
        yaw_degrees=0.0, pitch_degrees=0.0, roll_degrees=0.0, presence=1.0, mesh=mesh,
    )  # fmt: skip


@pytest.mark.parametrize(
    "crop", [Box(0, 0, 100, 100), Box(-50, -50, 150, 150)], ids=["inside", "beyond the frame"]
)
def test_polygons_lie_at_their_place_in_the_crop(crop: Box) -> None:
    mesh = np.full((468, 2), 20.0, np.float32)
    angles = np.linspace(0, 2 * np.pi, len(mesh_points.OVAL), endpoint=False)
    mesh[list(mesh_points.OVAL)] = np.stack([50 + 30 * np.sin(angles), 50 - 40 * np.cos(angles)], 1)
    for table in (mesh_points.NOSE, mesh_points.OUTER_LIPS, mesh_points.INNER_LIPS):
        mesh[list(table)] = 50
    classes = mesh_parser.draw(square_face(mesh, mesh), crop)
    rows, columns = np.nonzero(classes == SKIN)
    scale = 512 / crop.width
    for found, expected in (
        (columns.min(), (20 - crop.x1) * scale), (columns.max() + 1, (80 - crop.x1) * scale),
        (rows.min(), (10 - crop.y1) * scale), (rows.max() + 1, (90 - crop.y1) * scale),
    ):  # fmt: skip
        assert found == pytest.approx(expected, abs=2)
    assert (classes == SKIN).sum() == pytest.approx(np.pi * 30 * 40 * scale**2, rel=0.02)


def test_a_face_without_a_mesh_is_drawn_from_its_68_points() -> None:
    points = np.full((68, 2), 50.0, np.float32)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 17)
    points[:17] = np.stack([50 + 40 * np.sin(angles), 30 + 60 * np.cos(angles)], 1)
    outer, inner = (np.linspace(0, 2 * np.pi, n, endpoint=False) for n in (12, 8))
    points[48:60] = np.stack([50 - 15 * np.cos(outer), 70 - 8 * np.sin(outer)], 1)
    points[60:] = np.stack([50 - 10 * np.cos(inner), 70 - 4 * np.sin(inner)], 1)
    classes = mesh_parser.draw(square_face(None, points), Box(0, 0, 100, 100))
    at = {(50, 70): MOUTH, (50, 76): LIPS, (50, 84): SKIN, (20, 50): SKIN, (5, 80): BACKGROUND}
    assert {place: classes[int(place[1] * 5.12), int(place[0] * 5.12)] for place in at} == at


def test_each_square_needs_its_face_and_crop() -> None:
    points = np.zeros((468, 2), np.float32)
    face = replace(square_face(points, points), lip_gap=0.1)
    with pytest.raises(ValueError, match="shorter"):
        mesh_parser.MeshParser().parse([np.zeros((512, 512, 3), np.uint8)], [face], [])
