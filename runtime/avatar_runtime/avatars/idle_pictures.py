"""The pictures that an avatar shows in silence: its source pictures with the mouth closed.

A picture that the preparation drew is stored in the size of the frame, but only the surroundings
of the blend mask have content. The rest is black, which takes almost no bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.avatars import geometry, masks, preparation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar

_MARGIN: Final = 16  # pixels around the mask: the black does not reach it through JPEG blocks


def decode(avatar: Avatar, index: int) -> NDArray[np.uint8]:
    """Return the picture that is shown in silence, `(h, w, 3) uint8` BGR.

    It is the source picture outside the blend mask.

    Raises:
        AssetError: a stored file cannot be decoded.
    """
    if not avatar.has_idle(index):
        return avatar.decode(index)
    picture = avatar.decode(index)
    drawn = cv2.imdecode(avatar.idle_file(index), cv2.IMREAD_COLOR)
    if drawn is None:
        raise errors.AssetError(avatar.name, f"frame {index}: the idle picture cannot be decoded")
    box = avatar.box(index)
    rows, columns = slice(box.y1, box.y2), slice(box.x1, box.x2)
    np.copyto(picture[rows, columns], drawn[rows, columns], where=avatar.mask(index)[..., None] > 0)
    return picture


def encode(avatar: Avatar, index: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the file that `decode` reads, from a whole picture `(h, w, 3) uint8` BGR.

    `picture` equals the source picture outside the blend mask.
    """
    box, inner = avatar.box(index), masks.bounding_box(avatar.mask(index))
    kept = geometry.Box(
        max(0, box.x1 + inner.x1 - _MARGIN),
        max(0, box.y1 + inner.y1 - _MARGIN),
        box.x1 + inner.x2 + _MARGIN,
        box.y1 + inner.y2 + _MARGIN,
    )
    rows, columns = slice(kept.y1, kept.y2), slice(kept.x1, kept.x2)
    partial = np.zeros_like(picture)
    partial[rows, columns] = picture[rows, columns]
    return preparation.picture_file(partial, avatar.manifest.pixels)
