"""An encoder without weights, so that avatars can be prepared without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.avatars import geometry, preparation

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class AveragingEncoder:
    """Latents are 8x8 means of the first channel, so a test can read them."""

    version = "v15"
    vae_hash = "made-for-tests"
    crop_size = 128

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(crops)
        n = len(crops)
        means = crops[:, :1].reshape(n, 1, 16, 8, 16, 8).mean(axis=(3, 5))
        return np.repeat(means, 4, axis=1)


@pytest.fixture
def encoder() -> AveragingEncoder:
    return AveragingEncoder()


@pytest.fixture
def spoilable(encoder: AveragingEncoder, tmp_path: Path) -> Path:
    """Return the folder of a good avatar of 4 frames, 72x64 pixels, as JPEG."""
    box = geometry.Box(10, 12, 40, 44)
    noise = np.random.default_rng(1)
    frames = [noise.integers(0, 255, (64, 72, 3), np.uint8) for _ in range(4)]
    masks = [np.full((48, 48), 255, np.uint8)] * 4
    folder = tmp_path / "anna"
    preparation.write(folder, frames, [box] * 4, masks, encoder)
    return folder
