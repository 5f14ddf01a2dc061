"""Finds speech in audio with the Silero model, bit-identical however the audio is split.

docs/decisions/0037-voice-activity-detection.md compares this model with others.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.audio import decoding, resampling
from avatar_runtime.audio.exported_arrays import Array
from avatar_runtime.errors import AssetError
from avatar_runtime.onnx_runtime import onnxruntime
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Data, Table
from avatar_runtime.protocol.turn_detection import WINDOW_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.strict_fields import StrictFields

_MODEL: Final = "data/silero_vad_16k_sequence.onnx"
"""The form of the model without branches for other sample rates. Its probabilities are those of
`silero_vad_16k_op15.onnx`, and it takes 20 % less time for one window."""
_WINDOW: Final = resampling.RATE * WINDOW_MS // 1000
_CONTEXT: Final = 64
"""Samples before a window that the model also gets, at 16 kHz (silero-vad, `OnnxWrapper`)."""
_HIDDEN: Final = (1, 1, 128)
_STATE: Final[Table] = {
    "_data": Data(64 * 1024, bytearray),
    "_input": Array((1, _CONTEXT + _WINDOW), "<f4"),
    "_filled": Count(_CONTEXT, _CONTEXT + _WINDOW - 1),
    "_hidden": Array(_HIDDEN, "<f4"),
    "_cell": Array(_HIDDEN, "<f4"),
}


class SileroDetector:
    """Rates the speech in the audio of one session."""

    def __init__(self, audio: AudioFormat) -> None:
        self._decode = decoding.DECODERS[audio.kind]
        self._width = audio.bytes_per_sample
        self._resampler = resampling.Resampler(audio.rate)
        self._data = bytearray()  # what the resampler does not have
        self._input = np.zeros((1, _CONTEXT + _WINDOW), np.float32)  # context, then the next window
        self._filled = _CONTEXT
        self._hidden = self._cell = np.zeros(_HIDDEN, np.float32)
        self._model = load()

    def append(self, data: bytes) -> Sequence[float]:
        """Add whole samples; return the probability of speech of each window that is complete.

        About 0.1 ms for each window of 32 ms on one core. Samples that complete no window wait as
        bytes: a client that sends 20 ms at a time costs one conversion a window, not one a message.
        """
        self._data += data
        missing = _CONTEXT + _WINDOW - self._filled
        if len(self._data) < self._resampler.needed(missing) * self._width:
            return ()
        samples = np.frombuffer(self._decode(bytes(self._data)), "<i2").astype(np.float64)
        self._data.clear()
        samples /= 32768.0
        return self._rate_windows(self._resampler.push(samples))

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        state = document_fields.export(self, _STATE)
        return {**state, "resampler": self._resampler.export()}

    def restore(self, fields: StrictFields) -> None:
        """Continue another detector of the same format from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self._resampler.restore(fields.nested("resampler"))

    def _rate_windows(self, samples: NDArray[np.float32]) -> list[float]:
        """Add samples at 16 kHz; return the probability of each window that they complete."""
        rates, start = [], 0
        while (end := start + self._input.size - self._filled) <= len(samples):
            self._input[0, self._filled :] = samples[start:end]
            rates.append(self._rate())
            self._input[0, :_CONTEXT] = self._input[0, -_CONTEXT:]
            start, self._filled = end, _CONTEXT
        left = len(samples) - start
        self._input[0, self._filled : self._filled + left] = samples[start:]
        self._filled += left
        return rates

    def _rate(self) -> float:
        # One window in each run, though the model takes several: a product of more rows may round
        # differently, and the pieces of the audio must not change a probability.
        inputs = {"input": self._input, "h": self._hidden, "c": self._cell}
        probability, self._hidden, self._cell = self._model.run(None, inputs)
        return float(probability[0])


@cache
def load() -> Any:
    """Return the model, which all sessions share: it has no state of its own.

    Raises:
        AssetError: the package `silero-vad` is not installed, or has no such model.
    """
    # The package imports torch, which its model does not need.
    found = find_spec("silero_vad")
    folder = next(iter(found.submodule_search_locations or ()), None) if found else None
    if folder is None or not (path := Path(folder) / _MODEL).is_file():
        raise AssetError("silero-vad", f"the package has no {_MODEL}; install silero-vad 6")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
