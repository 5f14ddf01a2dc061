"""The power of sound in bands of frequency, and the noise that is always there in them.

Every step of 20 ms is one measurement, so that nothing here depends on how the audio is split
into messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.audio.exported_arrays import Array
from avatar_runtime.protocol.document_fields import Count, Maybe, Number, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP: Final = 320
"""Samples of one measurement: 20 ms at 16 kHz, so that frequencies are 50 Hz apart."""
BANDS: Final = 6
"""Five bands from 200, 500, 1000, 2000 and 4000 Hz up to the next one, then their sum."""
LEARN_STEPS: Final = 100
"""Steps whose minimum is the noise: 2 s, in which running speech has gaps between its sounds."""
_LOWEST: Final = 4  # of 50 Hz: DC, hum and its first harmonics lie below 200 Hz
_BORDERS: Final = np.array([4, 10, 20, 40, 80])
# Power of a frequency is a chi-squared value with 2 degrees of freedom. The first band has 12, but
# counts 6, since power of loud lower frequencies leaks into it.
_DEGREES: Final = np.array([6.0, 20, 40, 80, 162, 314])
_SMOOTHED: Final = 4  # steps: 80 ms, shorter than most gaps between sounds
_MINIMUM_DEVIATIONS: Final = -2.25  # expected minimum of 50 independent normal values
_NOISE_DEVIATIONS: Final = 5.2  # one of 10 million values of the normal distribution is higher
_MARGIN: Final = 10 ** (1.0 / 10)  # noise of a microphone is not quite steady
_LEAST_RATIO: Final = 2.5  # the parts of a hum that are not whole in a step change by 3 dB


def _quantile(degrees: NDArray[np.float64], deviations: float) -> NDArray[np.float64]:
    """Return a quantile of chi-squared over its mean (Wilson and Hilferty, 1931).

    `deviations` is the same quantile of the normal distribution.
    """
    spread = 2 / (9 * degrees)
    return np.asarray((1 - spread + deviations * np.sqrt(spread)) ** 3)


def _weights() -> NDArray[np.float64]:
    """Return factors from the spectrum of differences to the mean power of the samples."""
    frequency = np.pi * np.arange(STEP // 2 + 1) / STEP
    weights = np.zeros(STEP // 2 + 1)
    # |1 - exp(-jw)|^2 is the gain of the difference; both halves of the spectrum count.
    weights[_LOWEST:] = 2 / (STEP * 2 * np.sin(frequency[_LOWEST:])) ** 2
    weights[-1] /= 2
    return weights


_WEIGHTS: Final = _weights()
_BIAS: Final = _quantile(_DEGREES * _SMOOTHED, _MINIMUM_DEVIATIONS)
RATIOS: Final = np.maximum(_quantile(_DEGREES, _NOISE_DEVIATIONS) * _MARGIN / _BIAS, _LEAST_RATIO)
"""`(BANDS,)`: from this ratio to the minimum, the power of a step is not noise."""


class BandPower:
    """Measures the power of steps above 200 Hz, without DC and hum.

    The difference of successive samples removes DC exactly and hum by 34 dB, before the edges of a
    step could spread either over the spectrum; the weights restore the other frequencies.
    """

    STATE: Final[Table] = {"_last": Maybe(Number(-8, 8))}
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._difference = np.empty(STEP)

    def measure(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the mean power of the next step in each band, `(BANDS,)`.

        `samples` are 1 to `STEP` values in [-1, 1].
        """
        steps = self._difference[: len(samples)]
        np.subtract(samples[1:], samples[:-1], out=steps[1:])
        steps[0] = 0.0 if self._last is None else samples[0] - self._last
        self._last = float(samples[-1])
        spectrum = np.fft.rfft(steps, STEP)
        power = (spectrum.real**2 + spectrum.imag**2) * _WEIGHTS
        bands = np.empty(BANDS)
        np.add.reduceat(power, _BORDERS, out=bands[:-1])
        bands[-1] = bands[:-1].sum()
        return bands * (STEP / len(samples))


class NoiseFloor:
    """Tracks the minimum of the smoothed power of each band over the last `LEARN_STEPS`.

    This is minimum statistics (Martin, 2001) without its adaptive smoothing. Speech does not
    raise the minimum, since it has gaps; a noise that begins is learned after `LEARN_STEPS`, and
    one that ends is forgotten at once.
    """

    STATE: Final[Table] = {
        "_steps": Count(),
        "_recent": Array((_SMOOTHED, BANDS), "<f8"),
        "_smoothed": Array((BANDS, LEARN_STEPS), "<f8", may_be_infinite=True),
    }
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self._steps = 0
        self._recent = np.zeros((_SMOOTHED, BANDS))
        self._smoothed = np.full((BANDS, LEARN_STEPS), np.inf)

    def minimum(self) -> NDArray[np.float64] | None:
        """Return the minimum of each band, `(BANDS,)`; `None` in the first `LEARN_STEPS`."""
        return None if self._steps < LEARN_STEPS else self._smoothed.min(axis=1)

    def push(self, bands: NDArray[np.float64]) -> None:
        """Take the power of the next step."""
        self._recent[self._steps % _SMOOTHED] = bands
        if self._steps >= _SMOOTHED - 1:
            self._smoothed[:, self._steps % LEARN_STEPS] = self._recent.sum(axis=0) / _SMOOTHED
        self._steps += 1
