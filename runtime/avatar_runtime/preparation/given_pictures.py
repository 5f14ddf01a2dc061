"""Reads pictures that another program stored, by OpenCV, with bounds on what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.preparation.source import SourceLimits
from avatar_runtime.preparation.sources import png

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LIMITS: Final = SourceLimits()


def read(path: Path, flags: int) -> NDArray[np.uint8]:
    """Return a picture as OpenCV decodes it with these flags.

    Raises:
        AssetError: the file is too large, is not a picture, or is a PNG that costs more memory or
            time than its pixels need.
    """
    size = path.stat().st_size
    if size > _LIMITS.max_photo_bytes:
        fault = f"has {size} bytes, the limit is {_LIMITS.max_photo_bytes}"
        raise errors.AssetError(str(path), fault)
    file = np.fromfile(path, np.uint8)
    try:
        if file[: len(png.SIGNATURE)].tobytes() == png.SIGNATURE:
            png.check_picture(file.data, None, _LIMITS.max_photo_pixels)
        picture = cv2.imdecode(file, flags)
    except png.Refused as error:
        raise errors.AssetError(str(path), str(error)) from error
    except cv2.error as error:
        raise errors.AssetError(str(path), "is not a picture") from error
    if picture is None:
        raise errors.AssetError(str(path), "is not a picture")
    return np.asarray(picture, np.uint8)
