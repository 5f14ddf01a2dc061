"""The parts of a frame that the face detector looks at, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN_RATIO: Final = 0.5
"""Margin on each side of the padded look, in sides: the face then covers half of the input."""
_TILE_OVERLAP: Final = 0.25
"""Share of a tile that its neighbour repeats, so that each small face lies wholly in one tile."""
_TILES_PER_SIDE: Final = 2
"""Tiles along the shorter side of the frame; doubled once for frames of over 1440 lines."""
_MANY_TILES_FROM: Final = 1440
_MAX_TILES_ALONG: Final = 8
"""Bound on the tiles along the longer side: those of a very long frame are larger instead."""


@dataclass(frozen=True, slots=True)
class Region:
    """A square of the frame in whole pixels; it may reach outside of the frame."""

    x: int
    y: int
    side: int

    def in_frame(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points of the frame for points of the square, `(n, 2)` in shares of its side."""
        return shares * self.side + (self.x, self.y)


def search_order(width: int, height: int) -> list[list[Region]]:
    """Return the groups of regions to search, each only if those before it show no face."""
    longer = max(width, height)
    whole = Region((width - longer) // 2, (height - longer) // 2, longer)
    margin = int(longer * _MARGIN_RATIO)
    padded = Region(whole.x - margin, whole.y - margin, longer + 2 * margin)
    groups = [[whole], [padded, *tiles(width, height, _TILES_PER_SIDE)]]
    if min(width, height) > _MANY_TILES_FROM:
        groups.append(tiles(width, height, 2 * _TILES_PER_SIDE))
    return groups


def tiles(width: int, height: int, per_side: int) -> list[Region]:
    """Return overlapping squares that cover the frame, `per_side` along its shorter side."""
    shorter, longer = sorted((width, height))
    fresh = 1 - _TILE_OVERLAP
    side = ceil(
        max(
            shorter / (1 + (per_side - 1) * fresh),
            longer / (1 + (_MAX_TILES_ALONG - 1) * fresh),
        )
    )

    def starts(length: int) -> list[int]:
        if length <= side:
            return [(length - side) // 2]
        count = ceil((length - side) / (side * fresh)) + 1
        return [int(at) for at in np.linspace(0, length - side, count)]

    return [Region(x, y, side) for y in starts(height) for x in starts(width)]


def cut(frame: NDArray[np.uint8], region: Region, side: int) -> NDArray[np.uint8]:
    """Return the region as a picture of `side` pixels, black outside of the frame."""
    height, width = frame.shape[:2]
    scale = side / region.side
    x1, y1 = max(0, region.x), max(0, region.y)
    x2, y2 = min(width, region.x + region.side), min(height, region.y + region.side)
    left, top = round((x1 - region.x) * scale), round((y1 - region.y) * scale)
    # The frame of a very long picture may be less than 1 pixel wide here.
    left, top = min(left, side - 1), min(top, side - 1)
    columns = min(side - left, max(1, round((x2 - x1) * scale)))
    rows = min(side - top, max(1, round((y2 - y1) * scale)))
    shrinks = region.side > side
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + rows, left : left + columns] = cv2.resize(
        frame[y1:y2, x1:x2],
        (columns, rows),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return square
