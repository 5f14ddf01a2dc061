"""Finds speech in audio with the Silero model, bit-identical however the audio is split.

docs/decisions/0037-voice-activity-detection.md compares this model with others.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from avatar_runtime.audio import decoding, resampling
from avatar_runtime.errors import AssetError
from avatar_runtime.protocol.turn_detection import WINDOW_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.protocol.audio_formats import AudioFormat

_MODEL: Final = "data/silero_vad_16k_op15.onnx"
_WINDOW: Final = resampling.RATE * WINDOW_MS // 1000
_CONTEXT: Final = 64
"""Samples before a window that the model also gets, at 16 kHz (silero-vad, `OnnxWrapper`)."""
_STATE: Final = (2, 1, 128)


class SileroDetector:
    """Rates the speech in the audio of one session."""

    def __init__(self, audio: AudioFormat) -> None:
        self._decode = decoding.DECODERS[audio.kind]
        self._resampler = resampling.Resampler(audio.rate)
        self._pending = np.zeros(0, np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)
        self._state = np.zeros(_STATE, np.float32)
        self._model = load()

    def append(self, data: bytes) -> Sequence[float]:
        """Add whole samples; return the probability of speech of each window that is complete.

        About 0.1 ms for each window of 32 ms on one core.
        """
        samples = np.frombuffer(self._decode(data), "<i2").astype(np.float64) / 32768.0
        self._pending = np.concatenate([self._pending, self._resampler.push(samples)])
        whole = len(self._pending) // _WINDOW * _WINDOW
        windows, self._pending = self._pending[:whole], self._pending[whole:]
        return [self._rate(window) for window in windows.reshape(-1, _WINDOW)]

    def _rate(self, window: NDArray[np.float32]) -> float:
        inputs = {
            "input": np.concatenate([self._context, window])[None],
            "state": self._state,
            "sr": np.array(resampling.RATE, np.int64),
        }
        probability, self._state = self._model.run(None, inputs)
        self._context = window[-_CONTEXT:]
        return float(probability[0, 0])


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
