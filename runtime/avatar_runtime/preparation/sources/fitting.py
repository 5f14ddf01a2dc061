"""From the size of the source to the size of the frames: crop, scale, even sides."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_SIDE: Final = 64
"""Shortest side of a frame: a face in it is far below what the model draws (256 pixels)."""

# Anamorphic video has pixels of up to 2:1; 4:1 leaves room, and bounds the memory.
_WIDEST_PIXEL: Final = Fraction(4)

Crop = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """What happens to the upright picture of `width` x `height` pixels."""

    width: int
    height: int
    crop: Crop
    """`(x, y, width, height)`: the part that is kept."""
    scaled: tuple[int, int]
    """Width and height of this part after scaling."""
    result: tuple[int, int]
    """Width and height of the frames: the scaled part without an odd last column and row."""

    @property
    def whole(self) -> bool:
        """Whether the whole picture is kept, so that the decoder may scale it."""
        return self.crop == (0, 0, self.width, self.height)

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame of an upright picture, a view where nothing is scaled.

        `picture` has the size of the source, or already `scaled` if the picture is kept whole.
        """
        if not (self.whole and picture.shape[1::-1] == self.scaled):
            x, y, width, height = self.crop
            picture = picture[y : y + height, x : x + width]
            if self.scaled != (width, height):
                part = np.ascontiguousarray(picture)
                picture = cv2.resize(part, self.scaled, interpolation=cv2.INTER_AREA)
        return picture[: self.result[1], : self.result[0]]

    def notes(self) -> list[str]:
        """Return one sentence for each change of size that the options do not name."""
        said = []
        if self.scaled != self.crop[2:]:
            said.append(
                f"the picture is scaled down from {self.crop[2]}x{self.crop[3]} to "
                f"{self.scaled[0]}x{self.scaled[1]} pixels"
            )
        cut = [name for name, i in (("column", 0), ("row", 1)) if self.scaled[i] != self.result[i]]
        if cut:
            said.append(f"the last {' and '.join(cut)} of pixels is cut off to make the size even")
        return said


def plan(width: int, height: int, crop: Crop | None, max_side: int) -> Fit | str:
    """Return the fit of an upright picture, or what is wrong with the crop or the size."""
    kept = crop or (0, 0, width, height)
    x, y, w, h = kept
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        return (
            f"the crop {x},{y},{w},{h} must lie inside the picture of {width}x{height} pixels "
            "(x,y,width,height)"
        )
    share = min(1.0, max_side / max(w, h))
    scaled = (w, h) if share == 1.0 else (max(1, round(w * share)), max(1, round(h * share)))
    result = (scaled[0] // 2 * 2, scaled[1] // 2 * 2)
    if min(result) < SMALLEST_SIDE:
        return (
            f"the picture has {scaled[0]}x{scaled[1]} pixels after crop and scaling, both sides "
            f"must have at least {SMALLEST_SIDE}"
        )
    return Fit(width, height, kept, scaled, result)


def square_pixels(width: int, height: int, aspect: Fraction) -> tuple[int, int] | None:
    """Return the size in square pixels; the side that changes grows, so that nothing is lost.

    `aspect` is the width of a pixel divided by its height. `None` if it is absurd.
    """
    if not 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL:
        return None
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)
