"""Frames of the first pass as the second one reads them: exactly as they will be shown.

What the model sees must equal what a session shows, so it is decoded from the stored pictures. The
second pass needs the pixels around the face only, so the first one stores this part a second time,
as a file of its own. A JPEG without chroma subsampling codes each block of 8x8 pixels by itself:
blocks that are cut from the frame before it is coded decode to the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.avatars import masks, preparation
from avatar_runtime.avatars.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK: Final = 8  # pixels of a block of a JPEG
_MARGIN_RATIO: Final = 1 / 16
"""Margin on each side, in longer sides of the face box: smoothing moves the box between passes."""
_MAX_SHARE: Final = 0.5
"""Share of the frame from which a second file costs more than to decode the whole picture."""
NO_PART: Final = Box(0, 0, 0, 0)


class StoredFrame:
    """One frame as it is stored; decoded when its pixels are asked for."""

    def __init__(
        self,
        file: NDArray[np.uint8],
        size: tuple[int, int],
        part: Box = NO_PART,
        part_file: NDArray[np.uint8] | None = None,
    ) -> None:
        """`file` is a JPEG or PNG file of `size` (width and height), `part_file` one of `part`."""
        self._file = file
        self._size = size
        self._part = part
        self._part_file = part_file
        self._decoded: tuple[Box, NDArray[np.uint8]] | None = None

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box, `(box.height, box.width, 3) uint8` BGR, black outside."""
        inside = box.clamped(*self._size)
        if self._decoded is None or not _holds(self._decoded[0], inside):
            self._decoded = self._decode(inside)
        origin, pixels = self._decoded
        return masks.padded(pixels, box.relative_to(origin))

    def _decode(self, inside: Box) -> tuple[Box, NDArray[np.uint8]]:
        if self._part_file is not None and _holds(self._part, inside):
            return self._part, _read(self._part_file)
        return Box(0, 0, *self._size), _read(self._file)


def part_of(face: Box | None, width: int, height: int) -> Box:
    """Return the part of a frame that is stored for a face box; `NO_PART` if none is."""
    if face is None:
        return NO_PART
    margin = int(max(face.width, face.height) * _MARGIN_RATIO)
    part = Box(
        (face.x1 - margin) // _BLOCK * _BLOCK,
        (face.y1 - margin) // _BLOCK * _BLOCK,
        -(-(face.x2 + margin) // _BLOCK) * _BLOCK,
        -(-(face.y2 + margin) // _BLOCK) * _BLOCK,
    ).clamped(width, height)
    return part if part.width * part.height < _MAX_SHARE * width * height else NO_PART


def part_file(frame: NDArray[np.uint8], part: Box, pixels: str) -> NDArray[np.uint8]:
    """Return the file of a part; an empty array for `NO_PART`. `pixels` is `jpeg` or `png`."""
    if part == NO_PART:
        return np.zeros(0, np.uint8)
    cut = np.ascontiguousarray(frame[part.y1 : part.y2, part.x1 : part.x2])
    return preparation.picture_file(cut, pixels)


def _holds(outer: Box, inner: Box) -> bool:
    return inner.relative_to(outer).fits(outer.width, outer.height)


def _read(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.array(file), cv2.IMREAD_COLOR), np.uint8)
