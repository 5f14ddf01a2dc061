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
_JAW_KERNEL: Final = 33
_CONE_TOP: Final = 10  # row of the tip
_CONE_BOTTOM: Final = 20  # row from which the kernel keeps its width of 21
_CHEEK_KERNEL: Final = (35, 3)
_CHEEK_EROSIONS: Final = 2
CHEEK_WIDTH: Final = 90
"""Distance from the middle at which `jaw` begins to treat a column as cheek: that of MuseTalk."""
_NOSE: Final = 10


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
    face box and below the upper boundary, a share of the height of the crop box, is kept, then
    blurred.
    """
    box = face.relative_to(crop)
    top = max(box.y1, int(crop.height * upper_boundary_ratio))
    kept = np.zeros_like(region)
    kept[top : box.y2, box.x1 : box.x2] = region[top : box.y2, box.x1 : box.x2]
    return _blurred(kept, int(blur_ratio * crop.width // 2 * 2) + 1)


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
    skin downwards and erodes it again in the cheeks, from `cheek_width` pixels of the parsed
    square on, so that a jaw that opens wider still fits. The nose is never part of the region.
    """
    if mode == "jaw":
        kept = _jaw(parsed, cheek_width) & (parsed != _NOSE) | np.isin(parsed, _MOUTH_AND_LIPS)
    else:
        neck = (_NECK,) if mode == "neck" else ()
        kept = np.isin(parsed, (_SKIN, *_MOUTH_AND_LIPS, *neck))
    square = kept.astype(np.uint8) * 255
    return _resized(square, crop.width, crop.height, "bicubic")


def padded(frame: NDArray[np.uint8], box: geometry.Box) -> NDArray[np.uint8]:
    """Return the part of a frame in a box, `(box.height, box.width, ...)`; black outside it.

    `frame` is `(h, w) uint8` or `(h, w, 3) uint8`.
    """
    height, width = frame.shape[:2]
    inside = box.clamped(width, height)
    cut = np.zeros((box.height, box.width, *frame.shape[2:]), np.uint8)
    if inside.width > 0 and inside.height > 0:
        at = inside.relative_to(box)
        cut[at.y1 : at.y2, at.x1 : at.x2] = frame[inside.y1 : inside.y2, inside.x1 : inside.x2]
    return cut


def parse_square(cut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what the face parser sees of a crop box, `(512, 512, 3) uint8` BGR.

    `cut` has the pixels of the crop box, black outside the frame (`padded`). It is resized as in
    MuseTalk.
    """
    return _resized(cut, PARSED_SIZE, PARSED_SIZE, "bilinear")


def bounding_box(mask: NDArray[np.uint8]) -> geometry.Box:
    """Return the smallest box with every pixel over 0; an empty box if all pixels are 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return geometry.Box(0, 0, 0, 0)
    return geometry.Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _blurred(mask: NDArray[np.uint8], kernel: int) -> NDArray[np.uint8]:
    """Return the Gaussian blur of a mask, computed only where it differs from 0.

    The part that is blurred has a kernel of zeros around what it shows, unless it ends where the
    mask ends, so that each of its pixels is that of the whole mask.
    """
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    if box.width <= 0 or box.height <= 0:
        return result
    rows, columns = _around(box, kernel, mask.shape)
    border = cv2.BORDER_DEFAULT | cv2.BORDER_ISOLATED
    result[rows, columns] = cv2.GaussianBlur(
        mask[rows, columns], (kernel, kernel), 0, borderType=border
    )
    return result


def _around(box: geometry.Box, margin: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a box with a margin, inside an image of this shape."""
    outer = geometry.Box(box.x1 - margin, box.y1 - margin, box.x2 + margin, box.y2 + margin)
    part = outer.clamped(shape[1], shape[0])
    return slice(part.y1, part.y2), slice(part.x1, part.x2)


def _jaw(parsed: NDArray[np.uint8], cheek_width: int) -> NDArray[np.bool_]:
    """Return the skin, dilated, and eroded from `cheek_width` columns off the middle on.

    Only the surroundings of the skin are computed: nothing beyond the reach of the kernel differs
    from 0, and erosion adds nothing.
    """
    skin = (parsed == _SKIN).astype(np.uint8)
    result = np.zeros(parsed.shape, bool)
    box = bounding_box(skin)
    if box.width <= 0:
        return result
    rows, columns = _around(box, _JAW_KERNEL, parsed.shape)
    grown = cv2.dilate(skin[rows, columns], _jaw_kernel())
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, _CHEEK_KERNEL)
    narrowed = cv2.erode(grown, kernel, iterations=_CHEEK_EROSIONS)
    distance = np.abs(np.arange(parsed.shape[1]) - parsed.shape[1] // 2)
    result[rows, columns] = np.where(distance[columns] >= cheek_width, narrowed, grown) > 0
    return result


def _jaw_kernel() -> NDArray[np.uint8]:
    """Return the 33x33 kernel: 10 empty rows, rows of width 1, 3, ... 21, 12 rows of width 21."""
    rows, columns = np.indices((_JAW_KERNEL, _JAW_KERNEL))
    reach = np.minimum(rows, _CONE_BOTTOM) - _CONE_TOP
    return (np.abs(columns - _JAW_KERNEL // 2) <= reach).astype(np.uint8)


def _resized(image: NDArray[np.uint8], width: int, height: int, mode: str) -> NDArray[np.uint8]:
    """Return an image resized as Pillow does, which MuseTalk uses here.

    Unlike OpenCV's filters, these take the mean of the source pixels where they shrink. `mode` is
    `bilinear` or `bicubic`; torch is imported here, since serving does not need this module's
    parser functions.
    """
    import torch
    from torch.nn import functional

    planes = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]
    sized = functional.interpolate(
        planes, (height, width), mode=mode, align_corners=False, antialias=True
    )
    return np.ascontiguousarray(sized[0].permute(1, 2, 0).numpy()).reshape(
        height, width, *image.shape[2:]
    )
