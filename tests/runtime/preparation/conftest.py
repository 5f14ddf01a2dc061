"""Clips of a real face: the photograph of an astronaut that scikit-image ships (NASA)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Edit = Callable[[int, Picture], Picture]

WIDTH, HEIGHT = 480, 432


@pytest.fixture(scope="session")
def astronaut() -> Picture:
    """The photograph, `(512, 512, 3) uint8` BGR; the face is about 95 pixels wide."""
    from skimage import data

    return np.asarray(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), np.uint8)


@pytest.fixture(scope="session")
def frame_of(astronaut: Picture) -> Callable[[int], Picture]:
    """Return a maker of frames that move a little; frame 0 shows the face in the middle."""

    def make(index: int) -> Picture:
        scale = 1.25 * (1 + 0.02 * np.sin(index / 9))
        x, y = 8 * np.sin(index / 7), 5 * np.sin(index / 5)
        matrix = np.array(
            [[scale, 0, WIDTH / 2 - 224 * scale + x], [0, scale, HEIGHT / 2 - 150 * scale + y]]
        )
        moved = cv2.warpAffine(
            astronaut,
            matrix,
            (WIDTH, HEIGHT),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(moved, np.uint8)

    return make


@pytest.fixture(scope="session")
def write_clip(frame_of: Callable[[int], Picture]) -> Callable[..., Path]:
    """Return a writer of folders of pictures: `write_clip(folder, frames, edit)`."""

    def write(folder: Path, frames: int, edit: Edit = lambda _, frame: frame) -> Path:
        folder.mkdir(parents=True)
        for index in range(frames):
            cv2.imwrite(str(folder / f"{index:06d}.png"), edit(index, frame_of(index)))
        return folder

    return write
