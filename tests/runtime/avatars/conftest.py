"""An encoder without weights, so that avatars can be prepared without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
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
