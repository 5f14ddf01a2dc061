"""Decides from the probability of speech when a turn of the client starts and ends.

Time is counted in windows of audio, never by a clock: the same audio gives the same turns, in
whatever pieces and at whatever times it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from avatar_runtime.protocol.document_fields import Count, Flag, Table

WINDOW_MS: Final = 32
"""Duration of the audio that one probability describes, milliseconds."""
START_WINDOWS: Final = 2
"""Windows of speech, one after the other, that start a turn: a click is shorter than 64 ms.
docs/decisions/0037-voice-activity-detection.md has the measurement."""
_LEAST_THRESHOLD: Final = 0.01
"""Silence ends a turn with a threshold of 0, too."""


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """`session.audio.input.turn_detection` of type `server_vad`; the defaults are OpenAI's."""

    threshold: float = 0.5
    """Probability from which on a window holds speech, 0 to 1."""
    prefix_padding_ms: int = 300
    """Audio before the first window with speech that belongs to the turn, milliseconds."""
    silence_duration_ms: int = 500
    """Silence that ends a turn, milliseconds."""
    idle_timeout_ms: int | None = None
    """Silence after a response that is reported, milliseconds; `None` reports nothing."""
    create_response: bool = True
    """Whether speech starts its response; otherwise the turn waits for `response.create`."""
    interrupt_response: bool = True
    """Whether new speech cancels the response that is active."""
    asked: tuple[str, ...] = ()
    """What the client asked for and does not get: a type, names of fields. It was warned."""

    def describe(self) -> dict[str, object]:
        """Return the object of the wire protocol."""
        return {
            "type": "server_vad",
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            "idle_timeout_ms": self.idle_timeout_ms,
            "create_response": self.create_response,
            "interrupt_response": self.interrupt_response,
        }


class Boundary(Enum):
    """What a window of audio changes."""

    START = "start"
    """Speech has started."""
    STOP = "stop"
    """Speech has stopped."""


class SpeechSegmenter:
    """Finds the speech in a series of probabilities, one for each window."""

    STATE: Final[Table] = {
        "is_speech": Flag(),
        "windows": Count(),
        "voice_start": Count(),
        "voice_end": Count(),
        "_run": Count(),
        "_first": Count(),
    }
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self.is_speech = False
        self.windows = 0
        """Number of windows so far."""
        self.voice_start = 0
        """Index of the first window of the latest speech."""
        self.voice_end = 0
        """Index of the window after the last one that held speech."""
        self._run = 0
        self._first = 0  # windows before this one never start speech

    def push(self, probability: float, detection: TurnDetection) -> Boundary | None:
        """Add the probability that the next window holds speech, 0 to 1."""
        index, self.windows = self.windows, self.windows + 1
        if self.is_speech:
            return self._follow(probability, detection)
        if index < self._first or probability < detection.threshold:
            self._run = 0
            return None
        self._run += 1
        if self._run < START_WINDOWS:
            return None
        self.is_speech, self._run = True, 0
        self.voice_start, self.voice_end = self.windows - START_WINDOWS, self.windows
        return Boundary.START

    def restart(self, first_window: int) -> None:
        """End the speech, if there is any, and ignore the windows before `first_window`."""
        self.is_speech, self._run, self._first = False, 0, first_window

    def _follow(self, probability: float, detection: TurnDetection) -> Boundary | None:
        # Without the hysteresis of silero-vad's own iterator, which takes noise after a turn for
        # speech: a turn survives single windows below the threshold as it is (decision 0046).
        if probability >= max(detection.threshold, _LEAST_THRESHOLD):
            self.voice_end = self.windows
        elif (self.windows - self.voice_end) * WINDOW_MS >= detection.silence_duration_ms:
            self.is_speech = False
            return Boundary.STOP
        return None
