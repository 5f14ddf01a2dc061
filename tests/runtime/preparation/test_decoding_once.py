"""Pictures of a folder are decoded once, and inflated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from avatar_runtime.preparation import sources
from avatar_runtime.preparation.sources import png, reading, video

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PIXELS = 100_000_000


def test_a_picture_that_is_stored_is_the_same_picture() -> None:
    """Photos are inflated once: FFmpeg gets the pixels that the check has inflated."""
    rng = np.random.default_rng(3)
    for shape in ((70, 91, 3), (64, 80), (33, 65, 4), (300, 200, 3)):  # the last has 6 blocks
        picture = rng.integers(0, 65536, shape, np.uint16)
        coded = bytearray(cv2.imencode(".png", picture)[1].tobytes())
        pixels = bytearray()
        assert png.check_picture(memoryview(coded), None, PIXELS, pixels) is not None
        stored = png.stored(memoryview(coded), pixels)
        decoded = [_decoded(data) for data in (bytes(coded), stored)]
        assert decoded[0].shape[:2] == shape[:2]
        np.testing.assert_array_equal(*decoded)


def test_pixels_that_are_damaged_or_too_large_are_not_stored() -> None:
    coded = bytearray(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    pixels = bytearray()
    png.check_picture(memoryview(coded[:-30]), None, PIXELS, pixels)
    assert not pixels
    large = bytearray(cv2.imencode(".png", np.zeros((6000, 6000, 3), np.uint8))[1].tobytes())
    png.check_picture(memoryview(large), None, PIXELS, pixels)
    assert not pixels


def _decoded(data: bytes) -> Any:
    (frame,) = av.CodecContext.create("png", "r").decode(av.Packet(data))
    return frame.to_ndarray()


def test_a_picture_of_a_folder_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(25):
        grey = np.full((64, 64, 3), 5 * index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), grey)
    source = sources.open(tmp_path)
    opened: list[Path] = []

    class Counted(reading.Reading):
        def __init__(self, path: Path, limits: Any) -> None:
            opened.append(path)
            super().__init__(path, limits)

    monkeypatch.setattr(video, "Reading", Counted)
    frames = list(source.frames())
    assert [int(frame.mean()) for frame in frames] == [5 * index for index in range(25)]
    assert [path.stem for path in opened] == [str(index) for index in range(25)]
