"""The third pass: draws the idle pictures of the frames whose mouth is open, and stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.preparation import analysis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from avatar_runtime.preparation.idle import Closing
    from avatar_runtime.preparation.meter import Meter
    from avatar_runtime.preparation.progress import Progress
    from avatar_runtime.preparation.staging import Staging

STAGE: Final = "idle"


class Drawer(Protocol):
    """Draws frames with the mouth of silence, as `idle.draw` does."""

    def __call__(
        self, avatar: cache.Avatar, closings: Mapping[int, Closing]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures of stored frames, `(h, w, 3) uint8` BGR, in their order."""
        ...


def close(
    avatar: cache.Avatar,
    closings: Mapping[int, Closing],
    draw: Drawer,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> None:
    """Draw and store the idle pictures of every chunk that an earlier run did not finish.

    `avatar` has no idle pictures yet.
    """
    size, total = analysis.CHUNK_FRAMES, avatar.manifest.frames
    progress.stage("close the mouth", len(closings))
    for number, begin in enumerate(range(0, total, size)):
        frames = range(begin, min(begin + size, total))
        part = {i: closings[i] for i in frames if i in closings}
        if staging.load(STAGE, number) is None:
            with meter.stage("idle", len(part)):
                files = _files(avatar, part, draw)
                none = np.zeros(0, np.uint8)
                flat, offsets = cache.pack([files.get(i, none) for i in frames])
                staging.save(STAGE, number, {"idle_pixels": flat, "idle_offsets": offsets})
                avatar.release()
        progress.advance(len(part))


def _files(
    avatar: cache.Avatar, closings: Mapping[int, Closing], draw: Drawer
) -> dict[int, NDArray[np.uint8]]:
    if not closings:
        return {}
    pictures = draw(avatar, closings)
    return {
        index: idle_pictures.encode(avatar, index, picture)
        for index, picture in zip(closings, pictures, strict=True)
    }
