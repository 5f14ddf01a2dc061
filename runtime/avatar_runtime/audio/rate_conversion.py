"""Converts 16-bit PCM from one sample rate to another, as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avatar_runtime.audio.resampling import Resampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FULL_SCALE = 32768.0


class PcmRateConverter:
    """Converts a stream between two of `resampling.INPUT_RATES`; the bits are little-endian PCM16.

    The length stays the same, except that the end is padded to a whole block of 20 ms.
    """

    def __init__(self, rate: int, to_rate: int) -> None:
        self._resampler = Resampler(rate, to_rate)

    def convert(self, audio: bytes) -> bytes:
        """Add whole samples and return the converted ones that have become ready."""
        samples = np.frombuffer(audio, "<i2").astype(np.float64) / _FULL_SCALE
        return _pcm(self._resampler.push(samples))

    def finish(self) -> bytes:
        """End the stream and return the rest."""
        return _pcm(self._resampler.finish())


def _pcm(samples: NDArray[np.float32]) -> bytes:
    scaled = np.rint(samples * _FULL_SCALE)
    clipped: NDArray[np.float32] = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1)
    return clipped.astype("<i2").tobytes()
