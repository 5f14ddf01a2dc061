"""What the second pass reads is what a session shows, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.avatars import masks, preparation
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import stored_frames
from avatar_runtime.preparation.stored_frames import NO_PART, StoredFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 333, 250  # no multiples of the blocks of a JPEG


def picture(seed: int) -> NDArray[np.uint8]:
    """Return noise of all frequencies: every coefficient of a block is used."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (20, 24, 3), np.uint8), (WIDTH, HEIGHT))
    fine = rng.integers(-60, 60, (HEIGHT, WIDTH, 3), np.int16)
    return np.asarray(cv2.add(coarse, fine, dtype=cv2.CV_8U), np.uint8)


def stored(frame: NDArray[np.uint8], part: Box, pixels: str) -> StoredFrame:
    whole = preparation.picture_file(frame, pixels)
    file = stored_frames.part_file(frame, part, pixels)
    return StoredFrame(whole, (frame.shape[1], frame.shape[0]), part, file)


def decoded(frame: NDArray[np.uint8], pixels: str) -> NDArray[np.uint8]:
    file = preparation.picture_file(frame, pixels)
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 9), st.sampled_from(["jpeg", "png"]), st.integers(0, WIDTH - 60),
    st.integers(0, HEIGHT - 60), st.integers(1, 180), st.integers(1, 150),
)  # fmt: skip
def test_the_part_decodes_to_the_pixels_of_the_whole_picture(
    seed: int, pixels: str, x: int, y: int, width: int, height: int
) -> None:
    frame = picture(seed)
    face = Box(x, y, x + width, y + height).clamped(WIDTH, HEIGHT)
    shown = decoded(frame, pixels)
    part = stored_frames.part_of(face, WIDTH, HEIGHT)
    found = stored(frame, part, pixels).pixels(face)
    np.testing.assert_array_equal(found, shown[face.y1 : face.y2, face.x1 : face.x2])


def test_the_part_alone_is_decoded_where_it_holds_the_box() -> None:
    face = Box(100, 90, 180, 190)
    part = stored_frames.part_of(face, WIDTH, HEIGHT)
    assert part == Box(88, 80, 192, 200)  # 6 pixels more on each side, and whole blocks
    frame = picture(0)
    file = stored_frames.part_file(frame, part, "png")
    unreadable = np.zeros(9, np.uint8)
    found = StoredFrame(unreadable, (WIDTH, HEIGHT), part, file)
    inside = Box(95, 85, 185, 195)  # the smoothed box of the second pass
    np.testing.assert_array_equal(found.pixels(inside), frame[85:195, 95:185])


@pytest.mark.parametrize(
    "box", [Box(80, 90, 180, 190), Box(-40, -30, 260, 270), Box(0, 0, 333, 250)]
)
def test_beyond_the_part_the_whole_picture_is_decoded(box: Box) -> None:
    frame = picture(1)
    part = stored_frames.part_of(Box(100, 90, 180, 190), WIDTH, HEIGHT)
    found = stored(frame, part, "jpeg")
    inner = found.pixels(Box(100, 90, 180, 190))
    shown = decoded(frame, "jpeg")
    np.testing.assert_array_equal(found.pixels(box), masks.padded(shown, box))
    np.testing.assert_array_equal(found.pixels(Box(100, 90, 180, 190)), inner)


@pytest.mark.parametrize("face", [None, Box(20, 10, 320, 240)], ids=["none", "most of the frame"])
def test_no_part_is_stored_without_a_face_and_for_a_large_one(face: Box | None) -> None:
    part = stored_frames.part_of(face, WIDTH, HEIGHT)
    assert part == NO_PART
    frame = picture(2)
    assert stored_frames.part_file(frame, part, "jpeg").size == 0
    box = Box(20, 10, 320, 240)
    np.testing.assert_array_equal(stored(frame, part, "png").pixels(box), frame[10:240, 20:320])
