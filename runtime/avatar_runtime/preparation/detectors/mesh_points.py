"""Numbers of the points of MediaPipe's face mesh, and what can be measured with them.

The numbers are those of MediaPipe's canonical face model. "Left" and "right" mean sides of the
picture of a face that looks at the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, degrees, hypot
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT: Final = 468
OVAL: Final = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of the face, clockwise from the top."""
OUTER_LIPS: Final = (
    *(61, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(291, 375, 321, 405, 314, 17, 84, 181, 91, 146),
)
INNER_LIPS: Final = (
    *(78, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    *(308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
)
NOSE: Final = (
    *(168, 417, 465, 343, 437, 420, 279, 331, 294, 460, 328, 326, 2),
    *(97, 99, 240, 64, 102, 49, 198, 217, 114, 245, 193),
)
"""The outline of the nose, from its root between the eyes."""
_JAW: Final = OVAL[OVAL.index(356) : OVAL.index(127) + 1]
_EYEBROWS: Final = (71, 63, 105, 66, 107, 336, 296, 334, 293, 301)
_NOSE_LINES: Final = (168, 197, 5, 4, 75, 97, 2, 326, 305)
_EYES: Final = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
BOUNDING: Final = (*_JAW, *_EYEBROWS, *_NOSE_LINES, *_EYES, *OUTER_LIPS, *INNER_LIPS)
"""The points at the places of the usual 68: jaw line, eyebrows, nose, eyes, lips."""
_BRIDGE: Final = (195, 5)
"""Their mean lies where point 29 of the 68 lies."""
EYE_CORNERS: Final = (33, 263)
"""Outer corners of the eyes, left and right."""
_CHEEKS: Final = (234, 454)
_FOREHEAD: Final = 10
_CHIN: Final = 152
_UPPER_LIP: Final = 13
_LOWER_LIP: Final = 14


@dataclass(frozen=True, slots=True)
class HeadPose:
    """Rotation of a head in degrees; all 0 if it looks at the camera, upright."""

    yaw: float
    """Positive if the face looks to the right side of the picture."""
    pitch: float
    """Positive if the face looks up."""
    roll: float
    """Positive if the head is turned clockwise in the picture."""


def nose_point(mesh: NDArray[np.float32]) -> tuple[float, float]:
    """Return the middle of the bridge of the nose, which is point 29 of the 68."""
    x, y = mesh[list(_BRIDGE), :2].mean(axis=0)
    return float(x), float(y)


def lip_gap(mesh: NDArray[np.float32]) -> float:
    """Return the opening between the inner lips as a share of the face height, 0 if closed.

    A lower lip that the model puts above the upper one also counts as closed.
    """
    down = mesh[_CHIN, :2] - mesh[_FOREHEAD, :2]
    height = float(np.hypot(*down))
    if height == 0:
        return 0.0
    opening = float((mesh[_LOWER_LIP, :2] - mesh[_UPPER_LIP, :2]) @ down) / height
    return max(0.0, opening / height)


def head_pose(mesh: NDArray[np.float32]) -> HeadPose:
    """Return the rotation of the head, from `(468, 3)` points whose depth grows away from us.

    The points of the model that are compared have equal depths in the canonical face.
    """
    across = mesh[_CHEEKS[1]] - mesh[_CHEEKS[0]]
    down = mesh[_CHIN] - mesh[_FOREHEAD]
    eyes = mesh[EYE_CORNERS[1]] - mesh[EYE_CORNERS[0]]
    return HeadPose(
        yaw=degrees(atan2(across[2], hypot(across[0], across[1]))),
        pitch=degrees(atan2(-down[2], hypot(down[0], down[1]))),
        roll=degrees(atan2(eyes[1], eyes[0])),
    )
