"""The parameters of a benchmark and its audio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

FPS: Final = 25
RATE: Final = 24_000
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a benchmark."""

    preset: str
    """`tiny` or `full`: the shapes of the networks."""
    batch_size: int
    sessions: int
    frames: int
    """Frames of the utterance of each session in one turn."""
    decoder: str = "sd-vae"
    """One of `engine.device.DECODERS`."""
    autograd: bool = False
    """Whether to measure the memory with gradients enabled, too; CUDA only."""


def noise(frames: int) -> bytes:
    """Return loud noise of a number of frames as PCM16: no frame of it is silent."""
    samples = np.random.default_rng(SEED).normal(0, 6000, frames * RATE // FPS)
    return bytes(np.clip(samples, -32768, 32767).astype("<i2").tobytes())
