"""The pass of a source with transparent pixels: stores how opaque each pixel is.

Each frame is decoded over black and over white. The second is lighter than the first by what is
seen of the background: `255 - alpha`. So the alpha goes through the same steps as the colours, and
fits them to the pixel.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.avatars import cache
from avatar_runtime.preparation import analysis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from avatar_runtime.preparation.meter import Meter
    from avatar_runtime.preparation.progress import Progress
    from avatar_runtime.preparation.source import Source
    from avatar_runtime.preparation.staging import Staging

STAGE: Final = "alpha"
BLACK: Final = "#000000"
WHITE: Final = "#ffffff"


class Mattes(Protocol):
    """Gives how opaque the frames of a source are."""

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the alpha of the frames from `start` on, `(height, width) uint8`.

        Raises:
            SourceError: as `Source.frames`.
        """
        ...


class DifferenceMattes:
    """The alpha of one source that is open twice, over black and over white."""

    def __init__(self, over_black: Source, over_white: Source) -> None:
        self._over_black = over_black
        self._over_white = over_white

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the alpha of the frames from `start` on, `(height, width) uint8`."""
        pairs = zip(self._over_black.frames(start), self._over_white.frames(start), strict=True)
        for black, white in pairs:
            seen = white.astype(np.int16) - black
            yield np.asarray(np.clip(255 - np.rint(seen.mean(axis=2)), 0, 255), np.uint8)


def store(mattes: Mattes, total: int, staging: Staging, meter: Meter, progress: Progress) -> None:
    """Store the alpha of `total` frames, chunk by chunk; go on after stored chunks.

    Raises:
        AssetError: the source gives fewer frames than before.
        SourceError: it cannot be decoded.
    """
    size = analysis.CHUNK_FRAMES
    starts = range(0, total, size)
    done = 0
    while done < len(starts) and staging.load(STAGE, done) is not None:
        done += 1
    progress.stage("read the alpha", total, min(done * size, total))
    frames = mattes.frames(done * size) if done < len(starts) else iter(())
    for number in range(done, len(starts)):
        count = min(size, total - starts[number])
        with meter.stage("alpha", count):
            files = [_file(alpha) for alpha in islice(frames, count)]
            if len(files) < count:
                fault = f"frame {starts[number] + len(files)} has no alpha; run the command again"
                raise errors.AssetError(str(staging.folder), fault, permanent=False)
            flat, offsets = cache.pack(files)
            staging.save(STAGE, number, {"alpha_pixels": flat, "alpha_offsets": offsets})
        progress.advance(count)


def _file(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".png", alpha)[1], np.uint8)
