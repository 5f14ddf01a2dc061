"""Band-limited resampling, bit-identical however the input is split.

The input is converted in blocks of 20 ms at fixed positions of the sample counter. Each block is
the same matrix product of the same samples, so the split into messages cannot change it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.audio.exported_arrays import Samples
from avatar_runtime.protocol import document_fields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.protocol.strict_fields import StrictFields

RATE: Final = 16_000
"""Sample rate of the audio model, samples per second."""
INPUT_RATES: Final = (8_000, 16_000, 24_000)
BLOCK_S: Final = Fraction(1, 50)
_ZERO_CROSSINGS: Final = 24  # of the sinc on each side: 1.5 ms at a 16 kHz cut-off
_PASS_BAND: Final = 0.94  # of the lower Nyquist frequency; Kaiser beta 9 gives 90 dB beyond it
_KAISER_BETA: Final = 9.0


class Resampler:
    """Converts a stream of PCM at one of `INPUT_RATES` to float32, without a time shift.

    Output sample n corresponds to n / `to_rate` s of the input. The filter is symmetric, so a block
    is ready once `lookahead` more input samples exist, or at `finish`.
    """

    def __init__(self, rate: int, to_rate: int = RATE) -> None:
        """`to_rate` is one of `INPUT_RATES` as well."""
        ratio = Fraction(to_rate, rate)
        self._block = int(rate * BLOCK_S)
        self._block_output = int(to_rate * BLOCK_S)
        self._taps, self._down = _taps(ratio)
        self.lookahead = 0 if ratio == 1 else self._taps.shape[0] // 2
        # The filter needs `lookahead` samples before the first one, too.
        self._pending = np.zeros(self.lookahead, np.float64)

    def needed(self, samples: int) -> int:
        """Return how many input samples must still be pushed for at least `samples` of output."""
        blocks = -(-samples // self._block_output)
        return blocks * self._block + 2 * self.lookahead - len(self._pending)

    def push(self, samples: NDArray[np.float64]) -> NDArray[np.float32]:
        """Append input samples in [-1, 1]; return the output that became ready, in whole blocks."""
        self._pending = np.concatenate([self._pending, samples])
        span = self._block + 2 * self.lookahead
        blocks = []
        start = 0
        while len(self._pending) - start >= span:
            blocks.append(self._convert(self._pending[start : start + span]))
            start += self._block
        self._pending = self._pending[start:]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def finish(self) -> NDArray[np.float32]:
        """End the stream: return the rest, padded with silence to whole blocks."""
        left = len(self._pending) - self.lookahead  # input samples not yet converted
        if left <= 0:
            return np.zeros(0, np.float32)
        return self.push(np.zeros(-left % self._block + self.lookahead, np.float64))

    def export(self) -> dict[str, object]:
        """Return the input that later output needs, as plain values."""
        return document_fields.export(self, self._table)

    def restore(self, fields: StrictFields) -> None:
        """Continue another resampler between the same rates from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, self._table)

    @property
    def _table(self) -> document_fields.Table:
        return {"_pending": Samples(self._block + 2 * self.lookahead, "<f8")}

    def _convert(self, span: NDArray[np.float64]) -> NDArray[np.float32]:
        if self.lookahead == 0:
            return span.astype(np.float32)
        # A view, as of `sliding_window_view`, which takes longer than the product itself.
        (step,) = span.strides
        shape = (self._block // self._down, self._taps.shape[0])
        starts = np.ndarray(shape, span.dtype, span, 0, (self._down * step, step))
        return (starts @ self._taps).ravel().astype(np.float32)


@cache
def _taps(ratio: Fraction) -> tuple[NDArray[np.float64], int]:
    """Return the filter of each output phase as a column, and the input step of one row.

    All resamplers share it: an interruption opens one, in the event loop.
    """
    up, down = ratio.numerator, ratio.denominator
    cutoff = _PASS_BAND * min(1.0, float(ratio))
    half = int(np.ceil(_ZERO_CROSSINGS / min(1.0, float(ratio)))) + 1
    offsets = np.arange(-half, half + 1)[:, None] - np.arange(up)[None, :] * down / up
    edge = np.clip(1 - (offsets / half) ** 2, 0, None)
    window = np.i0(_KAISER_BETA * np.sqrt(edge)) / np.i0(_KAISER_BETA)
    taps = cutoff * np.sinc(cutoff * offsets) * window * (np.abs(offsets) <= half)
    taps /= taps.sum(axis=0)
    taps.setflags(write=False)
    return taps, down
