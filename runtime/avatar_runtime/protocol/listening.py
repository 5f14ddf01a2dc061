"""Divides the audio of a session into turns by the speech in it.

Every boundary is a position of the sample counter, so that the pieces in which audio arrives
cannot change a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Data, Maybe, Table
from avatar_runtime.protocol.turn_detection import WINDOW_MS, Boundary, SpeechSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import VoiceDetector
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.strict_fields import StrictFields
    from avatar_runtime.protocol.turn_detection import TurnDetection

MAX_RETAINED_S: Final = 30
"""Audio without speech that a commit can still include, seconds; older audio is discarded."""
STEP_MS: Final = 256
"""Audio of one step, milliseconds: 8 windows, which take about 1 ms."""

_STATE: Final[Table] = {
    "_audio": Data(make=bytearray),
    "_start": Count(),
    "_unjudged": Data(make=bytearray),
    "_idle_since": Maybe(Count()),
}
_FRACTION: Final[Table] = {"numerator": Count(), "denominator": Count(1)}


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn starts."""

    start_ms: int
    """Where the audio of the turn starts, milliseconds of audio of the session."""


@dataclass(frozen=True, slots=True)
class SpeechAudio:
    """Audio of the current turn."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The current turn ends."""

    end_ms: int
    """Where the audio of the turn ends, milliseconds of audio of the session."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nobody has spoken for `TurnDetection.idle_timeout_ms` after a response."""

    start_ms: int
    end_ms: int


Action = SpeechStarted | SpeechAudio | SpeechStopped | TimedOut


class TurnDetector:
    """The audio that no turn has yet, and the detector that finds speech in it.

    Positions are samples since the detector was opened.
    """

    def __init__(self, detector: VoiceDetector, audio: AudioFormat, base_ms: Fraction) -> None:
        """`base_ms` is the audio of the session before this detector, milliseconds."""
        self._detector = detector
        self._width = audio.bytes_per_sample
        self._rate = audio.rate
        self._window = audio.rate * WINDOW_MS // 1000  # samples; every supported rate divides
        self._base_ms = base_ms
        self._segmenter = SpeechSegmenter()
        self._audio = bytearray()  # from `_start` on
        self._start = 0
        self._unjudged = bytearray()  # what the detector does not have; a turn may have it already
        self._idle_since: int | None = None  # window at which the silence after a response began

    @property
    def is_speech(self) -> bool:
        """Whether the client speaks."""
        return self._segmenter.is_speech

    @property
    def pending_samples(self) -> int:
        """Samples that `step` has not handled."""
        return len(self._unjudged) // self._width

    @property
    def start_ms(self) -> int:
        """Where the audio that no turn has starts, milliseconds of audio of the session."""
        return self._milliseconds(self._start)

    @property
    def end_ms(self) -> Fraction:
        """Audio of the session up to the last sample, milliseconds."""
        return self._base_ms + Fraction(self._received * 1000, self._rate)

    @property
    def has_audio(self) -> bool:
        """Whether there is audio that no turn has."""
        return bool(self._audio)

    def append(self, audio: bytes) -> None:
        """Add whole samples; `step` handles them."""
        self._audio += audio
        self._unjudged += audio

    def step(self, detection: TurnDetection, *, is_busy: bool) -> Iterator[Action]:
        """Handle the next `STEP_MS` of audio and yield what it changes.

        `is_busy` is whether the avatar speaks: the silence after a response starts when it ends.
        """
        size = self._rate * STEP_MS // 1000 * self._width
        audio = bytes(self._unjudged[:size])
        del self._unjudged[:size]
        for probability in self._detector.append(audio):
            yield from self._classify(probability, detection, is_busy=is_busy)
        if self.is_speech:
            yield from self._speech_audio(detection)
        else:
            self._discard_before(
                self._received - self.pending_samples - MAX_RETAINED_S * self._rate
            )

    def arm(self) -> None:
        """Measure the silence from now on: a response has ended."""
        self._idle_since = self._segmenter.windows

    def take(self) -> bytes:
        """Return the audio that no turn has, and end the speech; `step` has handled all of it."""
        self._discard_before(self._received - self.pending_samples - MAX_RETAINED_S * self._rate)
        audio = bytes(self._audio)
        self.discard()
        return audio

    def discard(self) -> None:
        """Discard the audio that no turn has, and end the speech; `step` has handled all of it."""
        assert not self.pending_samples
        self._discard_before(self._received)
        self._segmenter.restart(-(-self._received // self._window))

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        return {
            **document_fields.export(self, _STATE),
            "base_ms": document_fields.export(self._base_ms, _FRACTION),
            "segmenter": document_fields.export(self._segmenter, SpeechSegmenter.STATE),
            "detector": self._detector.export(),
        }

    def restore(self, fields: StrictFields) -> None:
        """Continue another detector of the same format from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        for name in ("audio", "unjudged"):
            size = len(getattr(self, f"_{name}"))
            document_fields.check(size % self._width == 0, fields, name, "must be whole samples")
        document_fields.restore(self._segmenter, fields.nested("segmenter"), SpeechSegmenter.STATE)
        self._detector.restore(fields.nested("detector"))

    @property
    def _received(self) -> int:
        return self._start + len(self._audio) // self._width

    def _classify(
        self, probability: float, detection: TurnDetection, *, is_busy: bool
    ) -> Iterator[Action]:
        segmenter = self._segmenter
        match segmenter.push(probability, detection):
            case Boundary.START:
                self._idle_since = None
                padding = detection.prefix_padding_ms * self._rate // 1000
                self._discard_before(segmenter.voice_start * self._window - padding)
                yield SpeechStarted(self._milliseconds(self._start))
                yield from self._speech_audio(detection)
            case Boundary.STOP:
                end = segmenter.windows * self._window
                yield from self._take_until(end)
                yield SpeechStopped(self._milliseconds(end))
            case None if not segmenter.is_speech:
                yield from self._count_silence(detection, is_busy=is_busy)
            case None:
                pass

    def _speech_audio(self, detection: TurnDetection) -> Iterator[SpeechAudio]:
        """Yield the audio that belongs to the turn whatever the next windows hold."""
        silence = detection.silence_duration_ms * self._rate // 1000
        voice_end = self._segmenter.voice_end * self._window
        yield from self._take_until(min(voice_end + silence, self._received))

    def _take_until(self, end: int) -> Iterator[SpeechAudio]:
        size = self._offset(end)
        if size > 0:
            audio = bytes(self._audio[:size])
            self._discard_before(end)
            yield SpeechAudio(audio)

    def _count_silence(self, detection: TurnDetection, *, is_busy: bool) -> Iterator[TimedOut]:
        if self._idle_since is None or detection.idle_timeout_ms is None:
            return
        windows = self._segmenter.windows
        if is_busy:
            self._idle_since = windows
        elif (windows - self._idle_since) * WINDOW_MS >= detection.idle_timeout_ms:
            start, end = self._idle_since * self._window, windows * self._window
            self._idle_since = None
            self._discard_before(end)
            yield TimedOut(self._milliseconds(start), self._milliseconds(end))

    def _discard_before(self, position: int) -> None:
        if position > self._start:
            del self._audio[: self._offset(position)]
            self._start = position

    def _offset(self, position: int) -> int:
        return (position - self._start) * self._width

    def _milliseconds(self, position: int) -> int:
        return int(self._base_ms + Fraction(position * 1000, self._rate))


class SessionTurnDetector:
    """The turn detector of a session; it opens with the first audio that is searched for speech."""

    def __init__(self, open_detector: Callable[[AudioFormat], VoiceDetector]) -> None:
        self._open_detector = open_detector
        self._detector: TurnDetector | None = None
        self._base = Fraction(0)  # audio of the session before the detector, milliseconds

    @property
    def is_speech(self) -> bool:
        """Whether the client speaks, as far as the detector knows."""
        return self._detector is not None and self._detector.is_speech

    @property
    def pending_samples(self) -> int:
        """Samples that `step` has not handled."""
        return self._detector.pending_samples if self._detector else 0

    @property
    def has_audio(self) -> bool:
        """Whether there is audio that no turn has."""
        return self._detector is not None and self._detector.has_audio

    @property
    def start_ms(self) -> int:
        """Where the audio that no turn has starts, milliseconds of audio of the session."""
        return int(self._base) if self._detector is None else self._detector.start_ms

    def listens(self, config: SessionConfig, *, is_open: bool) -> bool:
        """Return whether the next audio is searched for speech.

        The audio of a turn that the client opened without turn detection belongs to that turn.
        """
        return config.turn_detection is not None and (self.is_speech or not is_open)

    def append(self, audio: bytes, audio_format: AudioFormat) -> None:
        """Add audio in which speech is searched."""
        if self._detector is None:
            detector = self._open_detector(audio_format)
            self._detector = TurnDetector(detector, audio_format, self._base)
        self._detector.append(audio)

    def skip(self, size: int, audio_format: AudioFormat) -> None:
        """Count audio of `size` bytes in which no speech is searched."""
        self.close()
        samples = size // audio_format.bytes_per_sample
        self._base += Fraction(samples * 1000, audio_format.rate)

    def close(self) -> None:
        """Discard the audio that no turn has; the next audio opens a new detector."""
        if self._detector is not None:
            self._base = self._detector.end_ms
            self._detector = None

    def step(self, config: SessionConfig, *, is_busy: bool) -> Sequence[Action] | None:
        """Handle the next `STEP_MS` of audio; `None` if there is none."""
        detector, detection = self._detector, config.turn_detection
        if detector is None or detection is None or not detector.pending_samples:
            return None
        return tuple(detector.step(detection, is_busy=is_busy))

    def arm(self) -> None:
        """Measure the silence from now on: a response has ended."""
        if self._detector is not None:
            self._detector.arm()

    def take(self) -> bytes:
        """Return the audio that no turn has, and end the speech."""
        return self._detector.take() if self._detector else b""

    def discard(self) -> None:
        """Discard the audio that no turn has, and end the speech."""
        if self._detector is not None:
            self._detector.discard()

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        detector = None if self._detector is None else self._detector.export()
        return {"base_ms": document_fields.export(self._base, _FRACTION), "detector": detector}

    def restore(self, fields: StrictFields, audio_format: AudioFormat) -> None:
        """Continue from what another session of the same format has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        self._base = _read_fraction(fields)
        found = document_fields.optional(fields, "detector")
        if found is not None:
            detector = self._open_detector(audio_format)
            self._detector = TurnDetector(detector, audio_format, _read_fraction(found))
            self._detector.restore(found)


def _read_fraction(fields: StrictFields) -> Fraction:
    return Fraction(**document_fields.read(fields.nested("base_ms"), _FRACTION))
