"""Orientation of a picture: the display matrix of FFmpeg as a flip and quarter turns."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from av.sidedata import sidedata

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MATRIX: Final = struct.Struct("=9i")  # libavutil/display.h: 3x3, native byte order
_ONE: Final = 1 << 16  # 16.16 fixed point


# FFmpeg 8.1 adds EXIF data to frames (31), which the enumeration of PyAV 18.1 lacks: reading any
# side data of such a frame raises `ValueError`. An unknown type counts as one that is not read.
def _unknown_type(_: object) -> sidedata.Type:
    return sidedata.Type.A53_CC


sidedata.Type._missing_ = _unknown_type  # type: ignore[method-assign, assignment]


# Part of the length of an axis by which it may miss a right angle: 1 degree.
_SKEW: Final = 0.0175


@dataclass(frozen=True, slots=True)
class Orientation:
    """How the decoded picture becomes upright: first the mirror, then turns to the left."""

    mirror: bool = False
    """Exchange left and right."""
    turns: int = 0
    """Quarter turns counterclockwise, 0 to 3."""
    exact: bool = True
    """`False` if the file asks for another angle; the picture then stays as it is."""

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the upright picture as a view of `(height, width, channels)`."""
        mirrored = picture[:, ::-1] if self.mirror else picture
        return np.rot90(mirrored, self.turns)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the upright picture."""
        return (height, width) if self.turns % 2 else (width, height)

    def describe(self) -> str:
        """Return what is done, or "" if nothing is."""
        if not self.exact:
            return "the file asks for a turn by a part of a right angle, which is ignored"
        angle = (360 - 90 * self.turns) % 360
        done = ["mirrored"] if self.mirror else []
        done += [f"turned by {angle} degrees clockwise"] if angle else []
        return f"{' and '.join(done)}, as the file asks" if done else ""


UPRIGHT: Final = Orientation()


def from_matrix(data: bytes) -> Orientation:
    """Return the orientation that an `AV_FRAME_DATA_DISPLAYMATRIX` describes.

    The matrix maps a point (x, y) of the stored picture to (a x + c y, b x + d y) on the screen,
    with y down. A matrix of another length, or without direction, counts as upright.
    """
    if len(data) < _MATRIX.size:
        return UPRIGHT
    values = _MATRIX.unpack_from(data)
    a, b, c, d = (values[index] / _ONE for index in (0, 1, 3, 4))
    if not (a or b) or not (c or d):
        return UPRIGHT
    found = _axes(_unit(a, b), _unit(c, d))
    return found or Orientation(exact=False)


def _unit(x: float, y: float) -> tuple[int, int] | None:
    """Return the axis that the vector lies on, or `None` if it lies on none."""
    length = max(abs(x), abs(y))
    near = (round(x / length), round(y / length))
    off = min(abs(x), abs(y)) / length
    return near if off <= _SKEW else None


def _axes(right: tuple[int, int] | None, down: tuple[int, int] | None) -> Orientation | None:
    """Return the orientation that sends the axes of the picture to `right` and `down`."""
    for mirror in (False, True):
        for turns in range(4):
            if _send((-1 if mirror else 1, 0), turns) == right and _send((0, 1), turns) == down:
                return Orientation(mirror, turns)
    return None


def _send(vector: tuple[int, int], turns: int) -> tuple[int, int]:
    x, y = vector
    for _ in range(turns):  # a quarter turn to the left, with y down
        x, y = y, -x
    return x, y


def of_frame(frame: Any) -> Orientation:
    """Return the orientation of a decoded `av.VideoFrame`."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return from_matrix(bytes(data))
    return UPRIGHT
