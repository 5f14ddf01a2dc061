"""Resizing as matrices: what OpenCV computes along one axis, as a matrix for any device."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FACE: Final[Mapping[str, int]] = {"bilinear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}
"""Filters between the generated face and its box, by `face_resize` of the avatar.

MuseTalk draws with the first one; the second one made the input of the model, and is sharper.
"""


@lru_cache(maxsize=64)
def matrix(source: int, target: int, method: int) -> NDArray[np.float32]:
    """Return `(target, source) float32`, which resizes a column by multiplication.

    Each filter of OpenCV is separable into rows and columns, so resizing the unit matrix along
    one axis gives its weights, including those at the edges.
    """
    unit = np.eye(source, dtype=np.float32)
    weights = np.asarray(cv2.resize(unit, (source, target), interpolation=method), np.float32)
    weights.flags.writeable = False
    return weights


def method(source: int, target: int) -> int:
    """Return the filter between a width of the source frame and the requested width."""
    return cv2.INTER_AREA if target < source else cv2.INTER_LINEAR
