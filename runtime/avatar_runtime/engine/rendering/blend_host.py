"""From generated faces to the images that leave the engine, on the CPU: JPEG or I420."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from avatar_runtime.avatars import backdrops, geometry, idle_pictures
from avatar_runtime.engine.rendering import resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest


def compose(
    avatar: Avatar, index: int, face: NDArray[np.uint8], opacity: float = 1.0
) -> NDArray[np.uint8]:
    """Return the avatar's frame with the face blended in, `(h, w, 3) uint8` BGR.

    `face` is `(c, c, 3) uint8` BGR. `opacity`, 0 to 1, is the weight of this picture over the idle
    picture, which is the source picture unless the mouth of the source is open. Where the mask
    is 0, the source pixel is unchanged. A stored frame without a face is returned as it is.
    """
    image = avatar.frame(index).copy()
    box, pixels = patch(avatar, index, face, opacity)
    image[box.y1 : box.y2, box.x1 : box.x2] = pixels
    return image


def patch(
    avatar: Avatar, index: int, face: NDArray[np.uint8], opacity: float = 1.0
) -> tuple[geometry.Box, NDArray[np.uint8]]:
    """Return the part of `compose` that may differ from the source, and its box in the frame.

    The box is the bounding box of the blend mask: the part pasted over the source frame is the
    result of `compose`. The box of a stored frame without a face is empty.
    """
    if not avatar.valid(index):
        return geometry.Box(0, 0, 0, 0), np.empty((0, 0, 3), np.uint8)
    if opacity < 1 and avatar.has_idle(index):
        where, drawn = patch(avatar, index, face)
        idle = idle_pictures.decode(avatar, index)[where.y1 : where.y2, where.x1 : where.x2]
        weight = np.full(drawn.shape[:2], round(opacity * 255), np.uint8)
        return where, _blend(idle, drawn, weight)
    box, mask = avatar.box(index), avatar.mask(index)
    if opacity < 1:
        mask = np.rint(mask * np.float32(opacity)).astype(np.uint8)
    where = avatar.blended(index)
    inner = where.relative_to(box)
    resized = cv2.resize(
        face, (box.width, box.height), interpolation=resize.FACE[avatar.face_resize]
    )
    rows, columns = slice(inner.y1, inner.y2), slice(inner.x1, inner.x2)
    below = avatar.frame(index)[where.y1 : where.y2, where.x1 : where.x2]
    return where, _blend(below, np.asarray(resized[rows, columns], np.uint8), mask[rows, columns])


def shown(image: NDArray[np.uint8], request: FrameRequest) -> NDArray[np.uint8]:
    """Return a picture of an avatar, `(h, w, 3) uint8` BGR, in the crop and size of a request."""
    if request.crop is not None:
        left, top, right, bottom = request.crop
        image = np.ascontiguousarray(image[top:bottom, left:right])
    return resized(image, request.width, request.height)


def cut_out(
    image: NDArray[np.uint8], request: FrameRequest, avatar: Avatar, index: int
) -> NDArray[np.uint8]:
    """Return a picture as `shown` does, over the background of a request.

    With `request.below` the alpha follows below it as grey, and the picture has premultiplied alpha
    if the background is black.
    """
    if request.background is None:
        return shown(image, request)
    alpha = avatar.alpha(index)
    over = shown(backdrops.replace(image, alpha, avatar.backdrop, request.background), request)
    if not request.below:
        return over
    grey = cv2.cvtColor(shown(alpha, request), cv2.COLOR_GRAY2BGR)
    return np.asarray(np.vstack([over, grey]), np.uint8)


def encode_shown(image: NDArray[np.uint8], request: FrameRequest) -> bytes:
    """Return an image, `(h, w, 3) uint8` BGR, in the form of a request, whatever its size."""
    if request.raw:
        return i420(image)
    height, width = image.shape[:2]
    return encode_jpeg(image, width, height, request.quality)


def encode_jpeg(image: NDArray[np.uint8], width: int, height: int, quality: int) -> bytes:
    """Return an image as JPEG in the requested size; `quality` is 1 to 100."""
    image = resized(image, width, height)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def i420(image: NDArray[np.uint8]) -> bytes:
    """Return the planes Y, U and V of an image `(h, w, 3) uint8` BGR with even sides.

    U and V have half the width and height. The matrix is that of ITU-R BT.601 and the range is
    limited: Y is 16 to 235. On the frames of the examples it is 1 to 2 dB closer to the source
    after decoding than swscale's BT.709, in half the time (docs/decisions/0049-h264-frames.md).
    """
    planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
    return planes.tobytes()


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return an image in the requested size."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _blend(
    below: NDArray[np.uint8], above: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the blend in integers, rounded: `below` where `mask` is 0, `above` where it is 255."""
    weight = mask[:, :, None].astype(np.uint16)
    mixed = above * weight + below * (255 - weight) + 127  # at most 255 * 255 + 127: fits
    # Equal to `mixed // 255` for every 16-bit value, in a third of the time.
    return np.asarray(mixed + 1 + (mixed >> 8) >> 8, np.uint8)
