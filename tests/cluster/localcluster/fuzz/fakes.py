"""What a session needs of its caller, made of small parts: utterances, a detector, frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.turn_detection import WINDOW_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.strict_fields import StrictFields

FPS: Final = 25
_LOOKAHEAD_FRAMES: Final = 2
VOICE_LEVEL: Final = 16
"""A window with a byte from this value on, at the places that the detector reads, is speech."""


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """The audio around one frame, without the audio."""

    frame_index: int


class CountingUtterance:
    """One window for each frame, complete with the audio up to 120 ms after its start."""

    def __init__(self, audio: AudioFormat) -> None:
        self._width = audio.bytes_per_sample
        self._per_frame = audio.samples_per_frame(FPS)
        self._samples = 0
        self._taken = 0
        self._finished = False

    def append(self, data: bytes) -> None:
        """Count whole samples."""
        if self._finished or len(data) % self._width:
            raise AssertionError(f"{len(data)} bytes for samples of {self._width} bytes")
        self._samples += len(data) // self._width

    def finish(self) -> None:
        """Let silence follow."""
        self._finished = True

    def take(self) -> Sequence[FrameWindow]:
        """Return the windows that are complete."""
        ready = self._samples // self._per_frame - _LOOKAHEAD_FRAMES
        if self._finished:
            ready = -(-self._samples // self._per_frame)
        windows = [FrameWindow(index) for index in range(self._taken, ready)]
        self._taken = max(self._taken, ready)
        return windows

    def export(self, windows: Sequence[FrameWindow]) -> dict[str, object]:
        """Refuse: these sessions stay where they are."""
        raise AssertionError(f"{len(windows)} windows would move")

    def restore(self, fields: StrictFields) -> Sequence[FrameWindow]:
        """Refuse, as `export` does."""
        raise AssertionError("a session would move")


class LevelDetector:
    """Finds speech in each window whose loudest sample, of a few, is loud."""

    def __init__(self, audio: AudioFormat) -> None:
        self._window = audio.rate * WINDOW_MS // 1000 * audio.bytes_per_sample
        self._width = audio.bytes_per_sample
        self._data = b""

    def append(self, data: bytes) -> Sequence[float]:
        """Return the probability of speech of each new window."""
        if len(data) % self._width:
            raise AssertionError(f"{len(data)} bytes for samples of {self._width} bytes")
        self._data += data
        size, found = self._window, []
        count = len(self._data) // size
        for start in range(0, count * size, size):
            some = self._data[start + self._width - 1 : start + size : 64]
            found.append(0.9 if max(some) >= VOICE_LEVEL else 0.1)
        self._data = self._data[count * size :]
        return found

    def export(self) -> dict[str, object]:
        """Refuse: these sessions stay where they are."""
        raise AssertionError(f"{len(self._data)} bytes would move")

    def restore(self, fields: StrictFields) -> None:
        """Refuse, as `export` does."""
        raise AssertionError("a session would move")
