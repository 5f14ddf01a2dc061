"""Boxes around a face."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars import geometry
from avatar_runtime.avatars.geometry import Box


def _points() -> list[tuple[float, float]]:
    """68 points over x 200 to 300, point 29 at y 260, the lowest at y 330."""
    points = [(250.0, 270.0)] * 68
    points[0], points[16], points[8], points[29] = (200, 250), (300, 250), (250, 330), (250, 260)
    return points


@pytest.mark.parametrize(
    ("version", "height", "box"),
    [
        ("v1", 720, Box(200, 190, 300, 330)),
        ("v15", 720, Box(200, 190, 300, 340)),
        ("v15", 335, Box(200, 190, 300, 335)),
    ],
)
def test_the_hole_begins_at_point_29(version: str, height: int, box: Box) -> None:
    assert geometry.face_box(_points(), height, version) == box


def test_the_crop_box_is_a_square_of_one_and_a_half_sides() -> None:
    assert geometry.crop_box(Box(200, 190, 300, 330), 1280, 720) == Box(145, 155, 355, 365)


@given(
    x=st.integers(0, 90),
    y=st.integers(0, 90),
    width=st.integers(1, 100),
    height=st.integers(1, 100),
)
def test_the_crop_box_holds_the_face_and_lies_in_the_frame(
    x: int, y: int, width: int, height: int
) -> None:
    face = Box(x, y, x + width, y + height).clamped(100, 100)
    crop = geometry.crop_box(face, 100, 100)

    assert crop.fits(100, 100)
    assert face.relative_to(crop).fits(crop.width, crop.height)


@pytest.mark.parametrize("box", [Box(0, 0, 0, 5), Box(-1, 0, 5, 5), Box(0, 0, 5, 11)])
def test_a_box_without_area_or_outside_does_not_fit(box: Box) -> None:
    assert not box.fits(10, 10)
