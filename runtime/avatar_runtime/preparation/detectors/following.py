"""Follows faces from frame to frame by their mesh alone, which costs a quarter of a search.

The square of the mesh moves with the face. It keeps the place relative to the points that it had
when the face was searched for: points depend a little on their square, so a square around the
points of the frame before would make still faces tremble.
"""

from __future__ import annotations

from cmath import phase
from dataclasses import dataclass
from math import hypot, sin
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.preparation.detectors import mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_PRESENCE: Final = 0.9
"""Presence below which a face is searched for again. Faces that fill their square have 0.99."""
STILL_RATIO: Final = 0.02
"""Movement, in sides of the square, from which a second pass in the moved square is needed."""
LOST_RATIO: Final = 0.1
"""Movement between two frames, in sides, from which a face is searched for again.

A face is about half as wide as its square, so a jump (`quality.JUMP_RATIO`) is always confirmed by
a search. The mesh is exact up to 0.2 sides from the middle of the square (docs/detectors.md).
"""
LOST_GROWTH: Final = 1.15
"""Ratio of two sizes from which a face is searched for again; `quality.RESIZED_RATIO` is larger."""
_MIN_SPREAD: Final = 1.0  # square pixels, of all points: rounding errors are far smaller


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a search found: a square, and the points of the face inside it."""

    square: mesh.Roi
    points: NDArray[np.float32]
    """`(468, 2)`, pixels of the frame."""

    def moved(self, points: NDArray[np.float32]) -> mesh.Roi | None:
        """Return the square for a face whose points are now `(468, 2)`.

        It is the square of the search under the similarity that takes the points of the search
        to the new ones with the smallest mean square of the distances. `None`: the points of the
        search are all equal.
        """
        old, new = _complex(self.points), _complex(points)
        origin, target = old.mean(), new.mean()
        spread = np.vdot(old - origin, old - origin).real
        if spread < _MIN_SPREAD:
            return None
        factor = np.vdot(old - origin, new - target) / spread
        centre = target + factor * (complex(self.square.x, self.square.y) - origin)
        side = self.square.side * abs(factor)
        angle = self.square.angle + phase(factor)
        return mesh.Roi(float(centre.real), float(centre.imag), float(side), angle)


def follow(
    frame: NDArray[np.uint8], anchor: Anchor, last: NDArray[np.float32], model: mesh.FaceMesh
) -> mesh.Mesh | None:
    """Return the mesh of a face whose points in the frame before were `last`, `(468, 2)`.

    `None`: the face is lost, or moved so far that it must be searched for.
    """
    before = anchor.moved(last)
    if before is None:
        return None
    found = model.locate(frame, before)
    now = anchor.moved(found.points[:, :2])
    if now is None or found.presence < MIN_PRESENCE or is_lost(before, now):
        return None
    if distance_ratio(before, now) > STILL_RATIO:
        found = model.locate(frame, now)
    return found if found.presence >= MIN_PRESENCE else None


def is_lost(before: mesh.Roi, now: mesh.Roi) -> bool:
    """Whether a square moved or grew too far for the same face in the next frame."""
    apart = hypot(now.x - before.x, now.y - before.y)
    smaller, larger = sorted((before.side, now.side))
    return not (apart <= LOST_RATIO * before.side and larger <= LOST_GROWTH * smaller)


def distance_ratio(one: mesh.Roi, other: mesh.Roi) -> float:
    """Return how far two squares are apart, in sides of the first one: place, size and angle."""
    return max(
        hypot(other.x - one.x, other.y - one.y) / one.side,
        abs(other.side / one.side - 1),
        abs(sin(other.angle - one.angle)),
    )


def _complex(points: NDArray[np.float32]) -> NDArray[np.complex128]:
    flat = points.astype(np.float64)
    return np.asarray(flat[:, 0] + 1j * flat[:, 1], np.complex128)
