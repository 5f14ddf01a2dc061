"""The numbered pictures of another program's avatar as a source."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import cv2

from avatar_runtime import errors
from avatar_runtime.preparation import given_pictures
from avatar_runtime.preparation.source import SourceInfo, TimedPicture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_FPS: Final = 25


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
        height, width = given_pictures.read(pictures[0], cv2.IMREAD_COLOR).shape[:2]
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
            picture = given_pictures.read(path, cv2.IMREAD_COLOR)
            if picture.shape != (self.info.height, self.info.width, 3):
                found = f"{picture.shape[1]}x{picture.shape[0]}"
                first = f"{self.info.width}x{self.info.height}"
                raise errors.AssetError(str(path), f"has {found} pixels, the first one has {first}")
            yield picture

    def timed(self, start: int = 0) -> Iterator[TimedPicture]:
        """Yield the same pictures with their times."""
        for index, picture in enumerate(self.frames(start), start):
            yield TimedPicture(index, Fraction(index, _FPS), picture)
