"""The avatar's own pictures as JPEG, for frames in which nothing is said."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import MIB
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.batching.frames import FrameRequest

KEPT_BYTES: Final = 32 * MIB
"""A thousand pictures of the usual size: the timelines of a few avatars."""


class Stills:
    """Pictures that need no device; one thread at a time asks for them."""

    def __init__(self, avatars: Mapping[str, cache.Avatar], kept_bytes: int) -> None:
        self._avatars = avatars
        self._kept_bytes = kept_bytes
        # By avatar, stored frame, width, height and quality; the least recently used goes first.
        self._jpegs: OrderedDict[tuple[str, int, int, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def frame(self, request: FrameRequest) -> Frame:
        """Return the source frame of a request, whatever its sound."""
        avatar = self._avatars[request.avatar]
        index = cache.fold(request.source_frame, avatar.manifest.frames)
        key = (request.avatar, index, request.width, request.height, request.quality)
        if (known := self._jpegs.get(key)) is not None:
            self._jpegs.move_to_end(key)
            return Frame(request, known)
        picture = avatar.decode(index)
        jpeg = blend_host.encode_jpeg(picture, request.width, request.height, request.quality)
        self._jpegs[key] = jpeg
        self._bytes += len(jpeg)
        while self._bytes > self._kept_bytes:
            self._bytes -= len(self._jpegs.popitem(last=False)[1])
        return Frame(request, jpeg)
