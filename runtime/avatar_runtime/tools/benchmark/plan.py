"""What a benchmark is to measure, and the sound that it measures with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

FPS: Final = 25
RATE: Final = 24_000
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    preset: str
    """`tiny` or `full`: the shapes of the networks."""
    batch_size: int
    sessions: int
    frames: int
    """Frames that each session speaks in one turn."""
    decoder: str = "sd-vae"
    """One of `engine.device.DECODERS`."""
    autograd: bool = False
    """Whether to show as well what gradients cost that nobody turned off; on CUDA alone."""


def sound(frames: int) -> bytes:
    """Return loud noise: no frame of it is silent."""
    noise = np.random.default_rng(SEED).normal(0, 6000, frames * RATE // FPS)
    return bytes(np.clip(noise, -32768, 32767).astype("<i2").tobytes())
