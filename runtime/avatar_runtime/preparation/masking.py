"""Makes the blend mask of a frame: from a parser, or from the masks that another program made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.avatars import geometry, masks
from avatar_runtime.preparation import given_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.avatars.geometry import Box
    from avatar_runtime.preparation.faces import Face, FaceParser
    from avatar_runtime.preparation.stored_frames import StoredFrame


class Masker(Protocol):
    """Makes blend masks."""

    def masks(
        self,
        first: int,
        frames: Sequence[StoredFrame],
        boxes: Sequence[Box],
        crops: Sequence[Box],
        faces: Sequence[Face | None],
    ) -> list[NDArray[np.uint8]]:
        """Return the mask of each crop box, `(h, w) uint8`; all 0 where a face is missing.

        `first` is the number of the first frame; the frames follow each other.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMasks:
    """Masks from a face parser."""

    parser: FaceParser
    mode: str
    upper_boundary_ratio: float = geometry.UPPER_BOUNDARY_RATIO
    cheek_width: int = masks.CHEEK_WIDTH

    def masks(
        self,
        first: int,
        frames: Sequence[StoredFrame],
        boxes: Sequence[Box],
        crops: Sequence[Box],
        faces: Sequence[Face | None],
    ) -> list[NDArray[np.uint8]]:
        known = [i for i, face in enumerate(faces) if face is not None]
        parsed = self.parser.parse(
            (masks.parse_square(frames[i].pixels(crops[i])) for i in known),
            [face for face in faces if face is not None],
            [crops[i] for i in known],
        )
        result = [np.zeros((crop.height, crop.width), np.uint8) for crop in crops]
        for i, classes in zip(known, parsed, strict=True):
            region = masks.region(classes, crops[i], self.mode, cheek_width=self.cheek_width)
            result[i] = masks.feathered(
                region, boxes[i], crops[i], upper_boundary_ratio=self.upper_boundary_ratio
            )
        return result


@dataclass(frozen=True, slots=True)
class StoredMasks:
    """Masks in PNG files of the size of their crop boxes."""

    paths: Sequence[Path]
    boxes: Sequence[Box | None]
    """`None`: the frame has no face, and its mask is not read."""

    def masks(
        self,
        first: int,
        frames: Sequence[StoredFrame],
        boxes: Sequence[Box],
        crops: Sequence[Box],
        faces: Sequence[Face | None],
    ) -> list[NDArray[np.uint8]]:
        return [
            np.zeros((crop.height, crop.width), np.uint8)
            if self.boxes[i] is None
            else _read(self.paths[i], crop)
            for i, crop in enumerate(crops, first)
        ]


def _read(path: Path, crop: Box) -> NDArray[np.uint8]:
    mask = given_pictures.read(path, cv2.IMREAD_GRAYSCALE)
    if mask.shape != (crop.height, crop.width):
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        fault = f"the mask has {found} pixels, its crop box {crop.width}x{crop.height}"
        raise errors.AssetError(str(path), fault)
    return mask
