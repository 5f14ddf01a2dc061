"""Boxes around a face."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars import geometry
from avatar_runtime.avatars.geometry import Box

_DETECTED = Box(180, 150, 320, 345)


def _points() -> list[tuple[float, float]]:
    """68 points over x 200 to 300, point 29 at y 260, the lowest at y 330."""
    points = [(250.0, 270.0)] * 68
    points[0], points[16], points[8], points[29] = (200, 250), (300, 250), (250, 330), (250, 260)
    return points


def _box(points: list[tuple[float, float]], version: str = "v15", **changed: Any) -> Box:
    options: dict[str, Any] = {
        "frame_width": 1280,
        "frame_height": 720,
        "detector_box": _DETECTED,
        **changed,
    }
    return geometry.face_box(points, points[29], version=version, **options)


@pytest.mark.parametrize(
    ("version", "height", "box"),
    [
        ("v1", 720, Box(200, 190, 300, 330)),
        ("v15", 720, Box(200, 190, 300, 340)),
        ("v15", 335, Box(200, 190, 300, 335)),
    ],
)
def test_the_hole_begins_at_point_29(version: str, height: int, box: Box) -> None:
    assert _box(_points(), version, frame_height=height) == box


def test_landmarks_are_cut_to_integers_before_the_box_is_computed() -> None:
    """2 * 260.9 - 330.9 is 190.9; cut first it is 2 * 260 - 330."""
    points = [(x + 0.9, y + 0.9) for x, y in _points()]
    assert _box(points, "v1") == Box(200, 190, 300, 330)
    points[8] = (250.0, 330.1)  # the integer part counts: 2 * 260.9 - 330.1 would be 191
    assert _box(points, "v1").y1 == 190


@pytest.mark.parametrize(
    ("shift", "box"),
    [(7, Box(200, 204, 300, 330)), (-7, Box(200, 176, 300, 330)), (-200, Box(200, 0, 300, 330))],
)
def test_the_first_version_moves_the_nose_point(shift: int, box: Box) -> None:
    assert _box(_points(), "v1", bbox_shift=shift) == box
    assert _box(_points(), "v15", bbox_shift=shift) == Box(200, 190, 300, 340)


@pytest.mark.parametrize(
    "changed",
    [
        {0: (-1.0, 250.0)},  # begins left of the frame
        {29: (250.0, 330.0)},  # no height
        {29: (250.0, 340.0)},
        {i: (250.0, 250.0 + i) for i in range(68)},  # no width
        {0: (float("nan"), 250.0)},
    ],
    ids=["left of the frame", "no height", "below the chin", "no width", "not a number"],
)
def test_the_detector_replaces_an_unsuitable_box(changed: dict[int, tuple[float, float]]) -> None:
    points = [changed.get(i, point) for i, point in enumerate(_points())]
    assert _box(points, "v1") == _DETECTED
    assert _box(points, "v15") == Box(180, 150, 320, 355)  # with the margin, as MuseTalk


def test_a_point_just_left_of_the_frame_is_cut_to_its_edge() -> None:
    points = [(-0.9 if i == 0 else x, y) for i, (x, y) in enumerate(_points())]
    assert _box(points, "v1") == Box(0, 190, 300, 330)


@given(
    st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=68),
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    st.sampled_from(["v1", "v15"]),
    st.integers(-50, 50),
)
def test_every_face_box_lies_inside_the_frame(
    points: list[tuple[float, float]], nose: tuple[float, float], version: str, shift: int
) -> None:
    detected = Box(10, 10, 60, 70)
    box = geometry.face_box(
        points, nose, 200, 150, version, detector_box=detected, bbox_shift=shift
    )
    assert box.fits(200, 150)


def test_the_crop_box_is_a_square_of_one_and_a_half_sides() -> None:
    assert geometry.crop_box(Box(200, 190, 300, 330)) == Box(145, 155, 355, 365)


def test_the_crop_box_stays_square_at_the_edge_of_the_frame() -> None:
    # Centre (40, 320), half of 140 is 70, times 1.5 is 105.
    assert geometry.crop_box(Box(0, 250, 80, 390)) == Box(-65, 215, 145, 425)


@given(
    x=st.integers(0, 90),
    y=st.integers(0, 90),
    width=st.integers(1, 100),
    height=st.integers(1, 100),
)
def test_the_crop_box_is_a_square_that_holds_the_face(
    x: int, y: int, width: int, height: int
) -> None:
    face = Box(x, y, x + width, y + height)
    crop = geometry.crop_box(face)

    assert crop.width == crop.height
    assert face.relative_to(crop).fits(crop.width, crop.height)
    assert crop.width <= max(4, 1.5 * max(width, height))


@pytest.mark.parametrize("box", [Box(0, 0, 0, 5), Box(-1, 0, 5, 5), Box(0, 0, 5, 11)])
def test_a_box_without_area_or_outside_does_not_fit(box: Box) -> None:
    assert not box.fits(10, 10)
