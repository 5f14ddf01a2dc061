"""From drawn faces to the pictures that leave the pod: composition and JPEG, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from avatar_runtime.avatars import geometry, masks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar


def compose(
    avatar: Avatar, index: int, face: NDArray[np.uint8], mouth: float = 1.0
) -> NDArray[np.uint8]:
    """Return the avatar's frame with the face blended in, `(h, w, 3) uint8` BGR.

    `face` is `(c, c, 3) uint8` BGR, `mouth` the share of it that shows where the mask is full.
    Where the mask is 0 the source pixel stays exactly.
    """
    picture = avatar.picture(index).copy()
    where, pixels = patch(avatar, index, face, mouth)
    picture[where.y1 : where.y2, where.x1 : where.x2] = pixels
    return picture


def patch(
    avatar: Avatar, index: int, face: NDArray[np.uint8], mouth: float = 1.0
) -> tuple[geometry.Box, NDArray[np.uint8]]:
    """Return the part of `compose` that may differ from the source, and where it lies.

    It is the smallest rectangle that the mask touches: put over the source it is the whole.
    """
    box, mask = avatar.box(index), avatar.mask(index)
    if mouth < 1:
        mask = np.rint(mask * np.float32(mouth)).astype(np.uint8)
    inner = masks.touched(mask)
    where = geometry.Box(box.x1 + inner.x1, box.y1 + inner.y1, box.x1 + inner.x2, box.y1 + inner.y2)
    drawn = cv2.resize(face, (box.width, box.height), interpolation=cv2.INTER_LANCZOS4)
    rows, columns = slice(inner.y1, inner.y2), slice(inner.x1, inner.x2)
    below = avatar.picture(index)[where.y1 : where.y2, where.x1 : where.x2]
    return where, _blend(below, np.asarray(drawn[rows, columns], np.uint8), mask[rows, columns])


def encode_jpeg(picture: NDArray[np.uint8], width: int, height: int, quality: int) -> bytes:
    """Return a picture as one JPEG image in the size asked for."""
    if picture.shape[:2] != (height, width):
        shrinks = width < picture.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _blend(
    below: NDArray[np.uint8], above: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the rounded mix in integers, `below` where `mask` is 0 and `above` where it is 255."""
    weight = mask[:, :, None].astype(np.uint16)
    mixed = above * weight + below * (255 - weight) + 127  # at most 255 * 255 + 127: fits
    # Equal to `mixed // 255` for all that fits, at a third of the time.
    return np.asarray(mixed + 1 + (mixed >> 8) >> 8, np.uint8)
