"""Resizing as matrices: what OpenCV computes along one axis, for any device to multiply with."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACE: Final = cv2.INTER_LANCZOS4
"""From the drawn face to its box: the filter that also made the model's input."""


@lru_cache(maxsize=64)
def matrix(source: int, target: int, method: int) -> NDArray[np.float32]:
    """Return `(target, source) float32`, which resizes a column by multiplication.

    Each of OpenCV's filters works on rows and columns apart, so resizing the unit matrix along
    one axis shows its weights, those at the edges included.
    """
    unit = np.eye(source, dtype=np.float32)
    made = np.asarray(cv2.resize(unit, (source, target), interpolation=method), np.float32)
    made.flags.writeable = False
    return made


def method(source: int, target: int) -> int:
    """Return the filter between the avatar's picture and the size that a session asked for."""
    return cv2.INTER_AREA if target < source else cv2.INTER_LINEAR
