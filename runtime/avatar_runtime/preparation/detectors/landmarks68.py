"""Numbers of the usual 68 face points, which are those of the data set 300-W."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT: Final = 68
NOSE_POINT: Final = 29
"""The middle of the bridge of the nose."""
NOSE: Final = (27, 35, 34, 33, 32, 31)
OUTER_LIPS: Final = tuple(range(48, 60))
INNER_LIPS: Final = tuple(range(60, 68))
_UPPER_LIP: Final = 62
_LOWER_LIP: Final = 66
_CHIN: Final = 8
_NOSE_ROOT: Final = 27
_ROOT_TO_CHIN_RATIO: Final = 0.71
"""Distance from the root of the nose to the chin, in heights of the mesh (points 10 to 152).

Measured with the mesh (points 168, 152 and 10) on 10 photographs: 0.705 to 0.733.
"""
# Points with a number other than their own on the other side of the face.
_MIRRORED_RUNS: Final = (
    *(tuple(range(17)), tuple(range(17, 27)), tuple(range(31, 36))),
    *(tuple(range(48, 55)), tuple(range(55, 60)), tuple(range(60, 65)), tuple(range(65, 68))),
)
_MIRRORED_EYES: Final = {36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46}


def mirrored() -> NDArray[np.intp]:
    """Return, for each point, the number of its counterpart in the mirrored picture."""
    numbers = np.arange(COUNT)
    for run in _MIRRORED_RUNS:
        numbers[list(run)] = run[::-1]
    for left, right in _MIRRORED_EYES.items():
        numbers[left], numbers[right] = right, left
    return numbers


def lip_gap(points: NDArray[np.float32]) -> float:
    """Return the opening between the inner lips as a share of the face height, 0 if closed.

    `points` is `(68, 2)`. The height is estimated from the root of the nose and the chin, so
    that the share compares with that of the mesh.
    """
    down = points[_CHIN] - points[_NOSE_ROOT]
    length = float(np.hypot(*down))
    if length == 0:
        return 0.0
    opening = float((points[_LOWER_LIP] - points[_UPPER_LIP]) @ down) / length
    return max(0.0, opening * _ROOT_TO_CHIN_RATIO / length)
