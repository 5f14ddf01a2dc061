"""The audio that a client appends, until it belongs to a turn: samples, speech, and commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from avatar_runtime.protocol import document_fields, wav_header
from avatar_runtime.protocol.document_fields import Data, Table
from avatar_runtime.protocol.listening import (
    SessionTurnDetector,
    SpeechAudio,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Item
    from avatar_runtime.protocol.listening import Action
    from avatar_runtime.protocol.media import VoiceDetector
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.strict_fields import StrictFields

_STATE: Final[Table] = {"_split_sample": Data(1)}


class Speaker(Protocol):
    """The owner of the configuration, which speaks the audio of turns."""

    @property
    def config(self) -> SessionConfig:
        """The current configuration."""
        ...

    def on_audio(self) -> None:
        """Take notice of new audio to speak."""
        ...

    def start_next(self, now: float) -> None:
        """Start the response of the oldest turn, if it may start."""
        ...

    def interrupt(self, now: float) -> None:
        """Cancel what is spoken: the client has started to speak."""
        ...


class UtteranceBuffer(Protocol):
    """What becomes of the utterances: turns that are spoken, or sound that is transcribed."""

    @property
    def is_open(self) -> bool:
        """Whether an utterance accepts audio."""
        ...

    @property
    def open_item_id(self) -> str | None:
        """The id of the item of the utterance that has started and was not committed."""
        ...

    def check(self, size: int, unheard: int, audio_format: AudioFormat) -> None:
        """Check that `size` bytes can be added to `unheard` samples that no utterance has yet.

        Raises:
            ProtocolError: the buffer is full.
        """
        ...

    def keeps_pace(self, start_ms: int, now: float) -> bool:
        """Return whether an utterance that starts now follows the last at the pace of speech."""
        ...

    def open(self, audio_format: AudioFormat, start_ms: int) -> Item:
        """Open an utterance and return its item."""
        ...

    def open_item(self) -> Item:
        """Return a new item of the user, which is not in the conversation yet."""
        ...

    def append(self, audio: bytes, now: float) -> None:
        """Add audio to the open utterance."""
        ...

    def commit(self, now: float) -> None:
        """End the open utterance.

        Raises:
            ProtocolError: no utterance is open.
        """
        ...

    def abandon(self) -> None:
        """End the item of an utterance whose audio is no longer accepted."""
        ...

    def clear(self) -> None:
        """Discard the utterances that are not spoken yet."""
        ...


class AudioIntake:
    """Puts the audio of the client into the utterances of a buffer."""

    def __init__(
        self,
        buffer: UtteranceBuffer,
        outbox: Outbox,
        speaker: Speaker,
        open_detector: Callable[[AudioFormat], VoiceDetector],
    ) -> None:
        self._buffer = buffer
        self._outbox = outbox
        self._speaker = speaker
        self._detector = SessionTurnDetector(open_detector)
        self._split_sample = b""  # the first byte of a sample whose rest is in the next append

    @property
    def is_speech(self) -> bool:
        """Whether the client speaks, as far as the turn detector knows."""
        return self._detector.is_speech

    def arm(self) -> None:
        """Measure the silence from now on: a response has ended."""
        self._detector.arm()

    def reconfigure(self, before: SessionConfig, now: float) -> None:
        """Apply the new configuration of the speaker; audio of an open turn stays in it."""
        config, audio, detection = self._speaker.config, before.format, before.turn_detection
        if config.format != audio:
            self._split_sample = b""
        if config.format != audio or (config.turn_detection is None) != (detection is None):
            if self._detector.is_speech:
                self._append_rest(now)
            self._detector.close()
            if not self._buffer.is_open:
                self._buffer.abandon()

    def append(self, audio: bytes, now: float, event_id: str | None = None) -> None:
        """Add audio; without turn detection, the first of it opens a turn.

        With turn detection, `listen` handles it. A sample may be split between two calls.

        Raises:
            ProtocolError: the buffer is full; nothing is added.
        """
        self._check_header(audio, event_id)
        audio = self._whole_samples(audio)
        if not audio:
            return
        if self._detector.listens(self._speaker.config, is_open=self._buffer.is_open):
            self._detector.append(audio, self._speaker.config.format)
            return
        if not self._buffer.is_open:
            self._buffer.open(self._speaker.config.format, self._detector.start_ms)
        self._detector.skip(len(audio), self._speaker.config.format)
        self._buffer.append(audio, now)
        self._speaker.on_audio()
        self._speaker.start_next(now)

    def listen(self, now: float, *, is_busy: bool) -> bool:
        """Handle the next part of the audio that was appended, and return whether more waits.

        `is_busy` is whether the avatar speaks, or the client still plays what it said.

        Raises:
            ProtocolError: too many turns wait.
        """
        actions = self._detector.step(self._speaker.config, is_busy=is_busy)
        if actions is None:
            return False
        for action in actions:
            self._act(action, now)
        return self._detector.pending_samples > 0

    def commit(self, now: float) -> None:
        """End the open turn's audio. With turn detection, all audio that no turn has is the turn.

        Raises:
            ProtocolError: there is no audio to commit.
        """
        if self._split_sample:
            self._split_sample = b""
            message = "the audio ended with half a sample, which was discarded"
            self._outbox.warn("invalid_audio_length", message, param="audio")
        if self._detector.has_audio and self._buffer.open_item_id is None:
            self._open_turn(self._detector.start_ms)
        self._append_rest(now)
        self._end_turn(now)

    def clear(self, *, keeps_speech: bool) -> None:
        """Discard the turns whose response has not started.

        `keeps_speech` is whether an open turn is spoken: it goes on, also inside a sample.
        """
        if not keeps_speech:
            self._split_sample = b""
            self._detector.discard()
        self._buffer.clear()

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        return {**document_fields.export(self, _STATE), "detector": self._detector.export()}

    def restore(self, fields: StrictFields) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self._detector.restore(fields.nested("detector"), self._speaker.config.format)

    def _whole_samples(self, audio: bytes) -> bytes:
        """Return the samples that are complete, and keep the rest for the next append.

        Raises:
            ProtocolError: the buffer is full; nothing is kept.
        """
        audio_format = self._speaker.config.format
        audio = self._split_sample + audio
        size = len(audio) - len(audio) % audio_format.bytes_per_sample
        self._buffer.check(size, self._detector.pending_samples, audio_format)
        self._split_sample = audio[size:]
        return audio[:size]

    def _check_header(self, audio: bytes, event_id: str | None) -> None:
        header = wav_header.describe(audio)
        if header is not None:
            expected = self._speaker.config.format
            message = (
                f"audio starts with the header of a WAV file ({header}), which is played as sound;"
                f" send samples alone, {expected.kind} at {expected.rate} Hz"
            )
            self._outbox.warn("wav_header", message, param="audio", event_id=event_id)

    def _act(self, action: Action, now: float) -> None:
        item_id = self._buffer.open_item_id
        match action:
            case SpeechStarted():
                # Speech that is sent faster than it is spoken waits for the turns before it.
                is_live = self._buffer.keeps_pace(action.start_ms, now)
                self._open_turn(action.start_ms)
                fields: dict[str, object] = {
                    "audio_start_ms": action.start_ms,
                    "item_id": self._buffer.open_item_id,
                }
                self._outbox.add("input_audio_buffer.speech_started", fields)
                if is_live:
                    self._speaker.interrupt(now)
            case SpeechAudio():
                # Audio after a cancel belongs to an utterance that is not spoken any more.
                if self._buffer.is_open:
                    self._append_speech(action.audio, now)
            case SpeechStopped() if item_id is not None:
                fields = {"audio_end_ms": action.end_ms, "item_id": item_id}
                self._outbox.add("input_audio_buffer.speech_stopped", fields)
                self._end_turn(now)
            case SpeechStopped():
                pass  # too many turns waited when this speech started
            case TimedOut():
                fields = {
                    "audio_start_ms": action.start_ms,
                    "audio_end_ms": action.end_ms,
                    "item_id": self._buffer.open_item().id,
                }
                self._outbox.add("input_audio_buffer.timeout_triggered", fields)
                self._end_turn(now)

    def _append_rest(self, now: float) -> None:
        """Add the audio that no turn has to the open turn; without one, it is discarded."""
        rest = self._detector.take()
        if rest and self._buffer.is_open:
            self._append_speech(rest, now)

    def _end_turn(self, now: float) -> None:
        self._buffer.commit(now)
        self._speaker.start_next(now)

    def _open_turn(self, start_ms: int) -> None:
        self._buffer.open(self._speaker.config.format, start_ms)
        self._speaker.on_audio()

    def _append_speech(self, audio: bytes, now: float) -> None:
        self._buffer.append(audio, now)
        self._speaker.start_next(now)
