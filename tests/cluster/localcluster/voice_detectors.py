"""The voice activity detector of the product and its alternatives, behind one interface.

Each rates windows of 32 ms of PCM at 24 kHz, which arrives in pieces of 20 ms. The alternatives are
no requirements of this repository: they are measured if they can be imported
(`pip install webrtcvad-wheels ten-vad`; ten-vad needs the system's libc++).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from avatar_runtime.audio.resampling import RATE, Resampler
from avatar_runtime.audio.voice_activity import SileroDetector
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.turn_detection import WINDOW_MS
from localcluster import speech_in_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

CHUNK_MS: Final = 20
_WINDOW: Final = RATE * WINDOW_MS // 1000
_WEBRTC_STEP: Final = RATE * 30 // 1000  # its longest frame
_TEN_STEP: Final = 256  # the hop that it was trained with


class Detector(Protocol):
    """A detector of speech."""

    name: str
    """With its version."""
    thresholds: Sequence[float]
    """The thresholds among which the calibration chooses."""

    def rates(self, pcm: bytes) -> list[float]:
        """Return the probability of speech of each window of an utterance."""
        ...


class Silero:
    """The detector of the product."""

    thresholds: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def __init__(self) -> None:
        self.name = f"silero-vad {version('silero-vad')}"

    def rates(self, pcm: bytes) -> list[float]:
        """Return the probability of each window."""
        detector = SileroDetector(PCM_24K)
        return [rate for piece in _pieces(pcm) for rate in detector.append(piece)]


class WebRtc:
    """Gaussian mixtures, which decide for frames of 30 ms: about one for each window."""

    thresholds: Sequence[float] = (0.5,)  # it has no probability

    def __init__(self, mode: int) -> None:
        self._module: Any = import_module("webrtcvad")
        self._mode = mode
        self.name = f"webrtcvad-wheels {version('webrtcvad-wheels')}, mode {mode}"

    def rates(self, pcm: bytes) -> list[float]:
        """Return 1 for each window with speech; the mean if two frames end in it."""
        vad = self._module.Vad(self._mode)
        found = [float(vad.is_speech(step.tobytes(), RATE)) for step in _steps(pcm, _WEBRTC_STEP)]
        return by_window(found, _WEBRTC_STEP)


class Ten:
    """A small recurrent network; a probability is the mean of the two hops of a window."""

    thresholds: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def __init__(self) -> None:
        self._module: Any = import_module("ten_vad")
        self.name = f"ten-vad {version('ten-vad')}"

    def rates(self, pcm: bytes) -> list[float]:
        """Return the probability of each window."""
        vad = self._module.TenVad(_TEN_STEP, 0.5)
        found = [float(vad.process(step)[0]) for step in _steps(pcm, _TEN_STEP)]
        return by_window(found, _TEN_STEP)


def available() -> list[Detector]:
    """Return the detector of the product, and the alternatives that are installed."""
    found: list[Detector] = [Silero()]
    try:
        found += [WebRtc(2), WebRtc(3)]
    except ImportError:
        pass
    try:
        found.append(Ten())
    except (ImportError, OSError):  # without libc++ its library cannot be loaded
        pass
    return found


def _pieces(pcm: bytes) -> Iterator[bytes]:
    size = speech_in_noise.RATE * CHUNK_MS // 1000 * 2
    return (pcm[at : at + size] for at in range(0, len(pcm), size))


def _steps(pcm: bytes, size: int) -> Iterator[NDArray[np.int16]]:
    """Yield the audio at 16 kHz in steps of some samples."""
    resampler, waiting = Resampler(speech_in_noise.RATE), np.zeros(0, np.int16)
    for piece in _pieces(pcm):
        made = resampler.push(np.frombuffer(piece, "<i2").astype(np.float64))
        waiting = np.concatenate([waiting, np.clip(made, -32768, 32767).astype(np.int16)])
        for _ in range(len(waiting) // size):
            yield waiting[:size]
            waiting = waiting[size:]


def by_window(rates: Sequence[float], step: int) -> list[float]:
    """Return the mean of the steps that end in each window."""
    windows: list[list[float]] = []
    for number, rate in enumerate(rates, 1):
        index = -(-number * step // _WINDOW) - 1
        if index == len(windows):
            windows.append([])
        windows[index].append(rate)
    if windows and len(rates) * step < len(windows) * _WINDOW:
        windows.pop()  # it is not complete
    return [sum(each) / len(each) for each in windows]
