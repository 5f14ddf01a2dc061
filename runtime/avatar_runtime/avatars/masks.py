"""How strongly each pixel of the crop box is redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.avatars import geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLUR_RATIO: Final = 0.1
"""Side of the blur's kernel in widths of the crop box: upstream's realtime value."""


def feathered(
    region: NDArray[np.uint8],
    face: geometry.Box,
    crop: geometry.Box,
    *,
    upper_boundary_ratio: float = geometry.UPPER_BOUNDARY_RATIO,
    blur_ratio: float = BLUR_RATIO,
) -> NDArray[np.uint8]:
    """Return the mask of a crop box, `(h, w) uint8`, 255 where the new face shows alone.

    `region` is the face as the parser found it, in the crop box's size. Only its part inside
    the face box and below the upper boundary is kept, then blurred.
    """
    box = face.relative_to(crop)
    top = box.y1 + int(box.height * upper_boundary_ratio)
    kept = np.zeros_like(region)
    kept[top : box.y2, box.x1 : box.x2] = region[top : box.y2, box.x1 : box.x2]
    kernel = int(blur_ratio * crop.width) // 2 * 2 + 1
    blurred = cv2.GaussianBlur(kept, (kernel, kernel), 0)
    return np.asarray(blurred, np.uint8)


def ellipse(face: geometry.Box, crop: geometry.Box, inset: float = 0.04) -> NDArray[np.uint8]:
    """Return a face region for pictures without a parser: the ellipse inside the face box."""
    region = np.zeros((crop.height, crop.width), np.uint8)
    box = face.relative_to(crop)
    centre = ((box.x1 + box.x2) // 2, (box.y1 + box.y2) // 2)
    axes = (int(box.width * (0.5 - inset)), int(box.height * (0.5 - inset)))
    cv2.ellipse(region, centre, axes, 0, 0, 360, 255, cv2.FILLED)
    return region
