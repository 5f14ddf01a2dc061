"""The part of a frame that differs from the picture of the avatar in silence.

A client that has those pictures needs nothing else. The part is a rectangle around the blend mask
whose corners lie on blocks of JPEG: the blocks of a whole image and of its part are then the same,
so that both decode to the same pixels, except for the colour of a row or a column at the edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.batching.frames import Frame, Patch
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest

BLOCK: Final = 16
"""Pixels of a coded block with 4:2:0 chroma, in both directions: ITU-T T.81, A.2."""
_FILTER_REACH: Final = 1
"""Pixels by which resizing spreads a change, in the source and in the result: linear filters."""

NOTHING: Final = (0, 0, 0, 0)
"""The rectangle of a frame that does not differ."""


def frame(request: FrameRequest, avatar: Avatar, index: int, image: NDArray[np.uint8]) -> Frame:
    """Return the frame of a request from the whole picture, `(h, w, 3) uint8` BGR.

    `index` is the stored frame that `image` shows.
    """
    box = part(request, avatar, index)
    if not box.width:
        return nothing(request, index)
    shown = blend_host.cut_out(image, request, avatar, index)[box.y1 : box.y2, box.x1 : box.x2]
    return Frame(request, blend_host.encode_shown(shown, request), place(request, index, box))


def nothing(request: FrameRequest, index: int) -> Frame:
    """Return the frame of a request for a patch that shows the avatar in silence."""
    return Frame(request, b"", Patch(NOTHING, index))


def part(request: FrameRequest, avatar: Avatar, index: int) -> Box:
    """Return the rectangle of the frame of a request that is sent; `index` is the stored frame.

    It has no area if nothing differs.
    """
    if not request.patch:
        return Box(0, 0, request.width, request.image_height)
    picture = (0, 0, avatar.manifest.width, avatar.manifest.height)
    crop = Box(*(request.crop or picture))
    return rectangle(avatar.blended(index), crop, request.width, request.height)


def place(request: FrameRequest, index: int, box: Box) -> Patch | None:
    """Return where the image of a request belongs; `None` for a whole frame.

    `box` is the result of `part`.
    """
    if not request.patch:
        return None
    return Patch((box.x1, box.y1, box.width, box.height), index)


def rectangle(changed: Box, crop: Box, width: int, height: int) -> Box:
    """Return the rectangle of a frame of `width` x `height` pixels that `changed` can change.

    `changed` and `crop`, the part that the frame shows, are in pixels of the avatar's picture. The
    corners are multiples of `BLOCK`, or on the edge of the frame. The rectangle has no area if the
    crop shows nothing of `changed`.
    """
    left, right = _span(changed.x1 - crop.x1, changed.x2 - crop.x1, crop.width, width)
    top, bottom = _span(changed.y1 - crop.y1, changed.y2 - crop.y1, crop.height, height)
    if left >= right or top >= bottom:
        return Box(*NOTHING)
    return Box(left, top, right, bottom)


def _span(begin: int, end: int, source: int, target: int) -> tuple[int, int]:
    """Return the blocks of one axis that a span of the source reaches, as pixels of the target."""
    if begin >= end:
        return 0, 0
    if source != target:
        begin = (begin - _FILTER_REACH) * target // source - _FILTER_REACH
        end = -(-(end + _FILTER_REACH) * target // source) + _FILTER_REACH
    begin, end = max(0, begin), min(target, end)
    if begin >= end:
        return 0, 0
    return begin // BLOCK * BLOCK, min(target, -(-end // BLOCK) * BLOCK)
