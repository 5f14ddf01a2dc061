"""The boxes of a frame: the face box, the crop box around it, and the part that is blended.

The rules are those of the published MuseTalk code (docs/musetalk.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EXTRA_MARGIN: Final = 10
"""Pixels that MuseTalk 1.5 adds below the chin."""
CROP_SCALE: Final = 1.5
"""Side of the crop box, in units of the longer side of the face box."""
UPPER_BOUNDARY_RATIO: Final = 0.5
"""Share of the crop box, from its top, that is never blended: 0.5 is the middle of the face box."""


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


def face_box(
    points: ArrayLike,
    nose_point: tuple[float, float],
    frame_width: int,
    frame_height: int,
    version: str,
    *,
    detector_box: Box,
    bbox_shift: int = 0,
    extra_margin: int = EXTRA_MARGIN,
) -> Box:
    """Return the face box of one face; it lies inside the frame.

    The box spans `points`, `(n, 2)` pixels, and is symmetric about `nose_point`, landmark 29 of
    68. As in MuseTalk, coordinates are cut to integers first, and `detector_box` replaces a box
    that begins left of the frame or has no area. `v1` moves the nose point down by `bbox_shift`
    pixels and has no margin; `v15` ignores `bbox_shift` and adds `extra_margin` pixels below.

    The result has no area only if the detector's box has none inside the frame.
    """
    shift, margin = (bbox_shift, 0) if version == "v1" else (0, extra_margin)
    box = _landmark_box(points, nose_point, shift)
    if box is None or not box.clamped(frame_width, frame_height).fits(frame_width, frame_height):
        box = detector_box
    return Box(box.x1, box.y1, box.x2, box.y2 + margin).clamped(frame_width, frame_height)


def _landmark_box(points: ArrayLike, nose_point: tuple[float, float], shift: int) -> Box | None:
    """Return the box of the landmarks, or `None` where MuseTalk takes the detector's box."""
    found = np.asarray(points, np.float64).reshape(-1, 2)
    if not len(found) or not np.isfinite(found).all() or not np.isfinite(nose_point).all():
        return None
    whole = found.astype(np.int64)
    (x1, _), (x2, bottom) = whole.min(axis=0).tolist(), whole.max(axis=0).tolist()
    top = max(0, 2 * (int(nose_point[1]) + shift) - bottom)
    return None if x1 < 0 or x2 <= x1 or bottom <= top else Box(x1, top, x2, bottom)


def crop_box(face: Box) -> Box:
    """Return the square around the face, which may reach outside the frame.

    What lies outside the frame is black (`masks.padded`).
    """
    x, y = (face.x1 + face.x2) // 2, (face.y1 + face.y2) // 2
    longer = max(face.width, face.height)
    # The second term matters for faces of less than 4 pixels, which the square must hold.
    half = max(int(longer // 2 * CROP_SCALE), (longer + 1) // 2)
    return Box(x - half, y - half, x + half, y + half)
