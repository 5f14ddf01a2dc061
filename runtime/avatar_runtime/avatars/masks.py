"""Blend masks: the weight of the generated face for each pixel of the crop box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.avatars import geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLUR_RATIO: Final = 0.1
"""Side of the blur kernel in widths of the crop box: the realtime value of MuseTalk."""
MODES: Final = ("raw", "neck", "jaw")
PARSED_SIZE: Final = 512
"""Side of the output of the face parser, pixels."""
# Classes of the face parser (docs/musetalk.md).
_SKIN: Final = 1
_MOUTH_AND_LIPS: Final = (11, 12, 13)
_NECK: Final = 14
# Mode `jaw`, in pixels of the parsed square.
_CONE: Final = 33
_CHEEK_KERNEL: Final = (35, 3)
_CHEEK_EROSIONS: Final = 2
CHEEK_WIDTH: Final = 80
"""Distance from the middle beyond which `jaw` treats a column as cheek: 80 to 90 in MuseTalk."""


def feathered(
    region: NDArray[np.uint8],
    face: geometry.Box,
    crop: geometry.Box,
    *,
    upper_boundary_ratio: float = geometry.UPPER_BOUNDARY_RATIO,
    blur_ratio: float = BLUR_RATIO,
) -> NDArray[np.uint8]:
    """Return the blend mask of a crop box, `(h, w) uint8`, 255 where only the new face shows.

    `region` is the face region of the parser, in the size of the crop box. Its part inside the
    face box and below the upper boundary is kept, then blurred.
    """
    box = face.relative_to(crop)
    top = box.y1 + int(box.height * upper_boundary_ratio)
    kept = np.zeros_like(region)
    kept[top : box.y2, box.x1 : box.x2] = region[top : box.y2, box.x1 : box.x2]
    kernel = int(blur_ratio * crop.width) // 2 * 2 + 1
    blurred = cv2.GaussianBlur(kept, (kernel, kernel), 0)
    return np.asarray(blurred, np.uint8)


def ellipse(face: geometry.Box, crop: geometry.Box, inset: float = 0.04) -> NDArray[np.uint8]:
    """Return a face region for images without a parser: the ellipse inside the face box."""
    region = np.zeros((crop.height, crop.width), np.uint8)
    box = face.relative_to(crop)
    centre = ((box.x1 + box.x2) // 2, (box.y1 + box.y2) // 2)
    axes = (int(box.width * (0.5 - inset)), int(box.height * (0.5 - inset)))
    cv2.ellipse(region, centre, axes, 0, 0, 360, 255, cv2.FILLED)
    return region


def region(
    parsed: NDArray[np.uint8], crop: geometry.Box, mode: str, *, cheek_width: int = CHEEK_WIDTH
) -> NDArray[np.uint8]:
    """Return the face region of a crop box in one of `MODES`, `(h, w) uint8`, 0 or 255 inside.

    `parsed` is `(512, 512) uint8`, the class of each pixel of the crop box. `jaw` dilates the
    skin and erodes it again in the cheeks, so that a jaw that opens wider still fits; the order
    of its steps is an assumption (docs/musetalk.md).
    """
    if mode == "jaw":
        kept = _jaw(parsed, cheek_width) | np.isin(parsed, _MOUTH_AND_LIPS)
    else:
        neck = (_NECK,) if mode == "neck" else ()
        kept = np.isin(parsed, (_SKIN, *_MOUTH_AND_LIPS, *neck))
    square = kept.astype(np.uint8) * 255
    sized = cv2.resize(square, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(sized, np.uint8)


def bounding_box(mask: NDArray[np.uint8]) -> geometry.Box:
    """Return the smallest box with every pixel over 0; an empty box if all pixels are 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return geometry.Box(0, 0, 0, 0)
    return geometry.Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _jaw(parsed: NDArray[np.uint8], cheek_width: int) -> NDArray[np.bool_]:
    skin = (parsed == _SKIN).astype(np.uint8)
    grown = cv2.dilate(skin, _cone())
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, _CHEEK_KERNEL)
    narrowed = cv2.erode(grown, kernel, iterations=_CHEEK_EROSIONS)
    columns = np.arange(parsed.shape[1])
    is_cheek = np.abs(columns - parsed.shape[1] // 2) > cheek_width
    return np.asarray(np.where(is_cheek, narrowed, grown) > 0)


def _cone() -> NDArray[np.uint8]:
    """Return a triangle with its tip in the middle of the top row and the bottom row full."""
    middle = _CONE // 2
    rows, columns = np.indices((_CONE, _CONE))
    return (np.abs(columns - middle) <= rows // 2).astype(np.uint8)
