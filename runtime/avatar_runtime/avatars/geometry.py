"""The boxes of a frame: the face box, the crop box around it, and the part that is blended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA_MARGIN: Final = 10
"""Pixels that MuseTalk 1.5 adds below the chin."""
CROP_SCALE: Final = 1.5
"""Side of the crop box, in units of the longer side of the face box."""
UPPER_BOUNDARY_RATIO: Final = 0.5
"""Share of the face box, from its top, that is never blended."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels: `x1, y1` inside, `x2, y2` just outside."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    def clamped(self, width: int, height: int) -> Box:
        """Return the part that lies inside an image of this size."""
        return Box(max(0, self.x1), max(0, self.y1), min(width, self.x2), min(height, self.y2))

    def fits(self, width: int, height: int) -> bool:
        """Whether the box has an area and lies inside an image of this size."""
        return 0 <= self.x1 < self.x2 <= width and 0 <= self.y1 < self.y2 <= height

    def relative_to(self, other: Box) -> Box:
        """Return the box in coordinates whose origin is the corner of `other`."""
        return Box(self.x1 - other.x1, self.y1 - other.y1, self.x2 - other.x1, self.y2 - other.y1)


def face_box(points: Sequence[tuple[float, float]], height: int, version: str) -> Box:
    """Return the box of 68 face points, symmetric about point 29, with v1.5's margin below."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    bottom = max(ys)
    top = max(0.0, 2 * points[29][1] - bottom)
    margin = EXTRA_MARGIN if version == "v15" else 0
    return Box(int(min(xs)), int(top), int(max(xs)), min(int(bottom) + margin, height))


def crop_box(face: Box, width: int, height: int) -> Box:
    """Return the square around the face as far as it lies inside the frame."""
    x, y = (face.x1 + face.x2) // 2, (face.y1 + face.y2) // 2
    half = int(max(face.width, face.height) // 2 * CROP_SCALE)
    square = Box(x - half, y - half, x + half, y + half)
    # If a side is odd, the square of twice the half side leaves a pixel of the face outside.
    whole = Box(
        min(square.x1, face.x1),
        min(square.y1, face.y1),
        max(square.x2, face.x2),
        max(square.y2, face.y2),
    )
    return whole.clamped(width, height)
