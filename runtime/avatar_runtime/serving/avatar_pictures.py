"""One picture of each avatar, for a list from which a person chooses."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import cv2

from avatar_runtime.avatars import cache, idle_pictures

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_runtime.avatars.cache import Avatar

MAX_SIDE: Final = 512
"""Longer side of a picture at most, pixels."""
_QUALITY: Final = 85
_KEPT: Final = 64  # pictures, of at most about 100 KB each


class AvatarPictures:
    """Reads the first frame of an avatar in silence; the last pictures are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._reading = asyncio.Lock()

    async def read(self, name: str, version: str) -> bytes:
        """Return a JPEG file of at most `MAX_SIDE` pixels.

        `version` is the version that is served; a picture that was read for it is not read again.
        The caller has checked that the avatar is served.

        Raises:
            AssetError: the files of the avatar cannot be read.
        """
        key = (name, version)
        async with self._reading:
            if key not in self._pictures:
                self._pictures[key] = await asyncio.to_thread(_read, self._folder / name)
                if len(self._pictures) > _KEPT:
                    self._pictures.popitem(last=False)
            return self._pictures[key]


def _read(folder: Path) -> bytes:
    avatar = cache.read(folder)
    try:
        return _picture(avatar)
    finally:
        avatar.release()


def _picture(avatar: Avatar) -> bytes:
    image = idle_pictures.decode(avatar, 0)
    scale = MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert encoded
    return bytes(file)
