"""The numbered pictures of another program's avatar as a source."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.preparation.source import SourceInfo, TimedPicture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_FPS: Final = 25
_MAX_BYTES: Final = 256 << 20


class GivenSource:
    """Pictures of one size, in order, at 25 frames a second."""

    def __init__(
        self, name: str, sha256: str, pictures: Sequence[Path], notes: tuple[str, ...] = ()
    ) -> None:
        """Read the first picture.

        Raises:
            AssetError: it is not a picture.
        """
        self._pictures = pictures
        height, width = _read(pictures[0]).shape[:2]
        seconds = len(pictures) / _FPS
        facts: Mapping[str, Any] = {"codec": "png", "pixel_format": "bgr24", "has_audio": False}
        self.info = SourceInfo(
            name=name,
            sha256=sha256,
            kind="folder",
            width=width,
            height=height,
            fps=_FPS,
            frames=len(pictures),
            source_width=width,
            source_height=height,
            source_fps=float(_FPS),
            source_seconds=seconds,
            start=0.0,
            end=seconds,
            crop=None,
            notes=notes,
            **facts,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.info.notes

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures from `start` on, `(h, w, 3) uint8` BGR.

        Raises:
            AssetError: a file is not a picture, or has another size than the first one.
        """
        for path in self._pictures[start:]:
            picture = _read(path)
            if picture.shape != (self.info.height, self.info.width, 3):
                found = f"{picture.shape[1]}x{picture.shape[0]}"
                first = f"{self.info.width}x{self.info.height}"
                raise errors.AssetError(str(path), f"has {found} pixels, the first one has {first}")
            yield picture

    def timed(self, start: int = 0) -> Iterator[TimedPicture]:
        """Yield the same pictures with their times."""
        for index, picture in enumerate(self.frames(start), start):
            yield TimedPicture(index, Fraction(index, _FPS), picture)


def _read(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size > _MAX_BYTES:
        size = f"has {path.stat().st_size} bytes, the limit is {_MAX_BYTES}"
        raise errors.AssetError(str(path), size)
    try:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise errors.AssetError(str(path), "is not a picture") from error
    if picture is None:
        raise errors.AssetError(str(path), "is not a picture")
    return np.asarray(picture, np.uint8)
