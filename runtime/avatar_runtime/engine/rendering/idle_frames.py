"""The idle pictures of avatars, for frames without speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import MIB
from avatar_runtime.engine.rendering import patches
from avatar_runtime.engine.rendering.lru import LRUCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.batching.frames import FrameRequest

CACHE_BYTES: Final = 32 * MIB
"""A thousand JPEG images of the usual size: the timelines of a few avatars. Raw images are about
ten times as large and have a cache of their own, so that they do not evict the others."""

Key = tuple[
    str,
    int,
    tuple[int, int],
    int | None,
    tuple[int, int, int, int] | None,
    tuple[tuple[int, int, int] | None, bool],
]
"""Key of the avatar, stored frame, width and height, JPEG quality (`None` if raw), crop, and the
background."""


class IdleFrames:
    """Frames that need no device. Only one thread at a time may use it."""

    def __init__(self, avatars: Mapping[str, cache.Avatar], limit_bytes: int) -> None:
        """`limit_bytes` bounds the cached images, JPEG and raw ones each.

        The newest one is always cached.
        """
        self._avatars = avatars
        self._jpeg: LRUCache[Key, bytes] = LRUCache(limit_bytes, len)
        self._raw: LRUCache[Key, bytes] = LRUCache(limit_bytes, len)

    def frame(self, request: FrameRequest) -> Frame:
        """Return the idle picture of a request, whatever its audio."""
        avatar = self._avatars[request.avatar]
        index = cache.fold(request.source_frame, avatar.manifest.frames)

        def encode() -> bytes:
            return patches.frame(request, avatar, index, idle_pictures.decode(avatar, index)).image

        if request.patch and request.window.silent:
            return patches.nothing(request, index)
        if request.patch:  # of a simulated device, whose frames all show the silence
            return patches.frame(request, avatar, index, idle_pictures.decode(avatar, index))
        quality = None if request.raw else request.quality
        background = (request.background, request.below)
        size = (request.width, request.height)
        key = (avatar.info.key, index, size, quality, request.crop, background)
        images = self._raw if request.raw else self._jpeg
        return Frame(request, images.get(key, encode))
