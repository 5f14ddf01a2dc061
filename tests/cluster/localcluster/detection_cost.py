"""The CPU time of one session with and without turn detection, over the same audio.

The session, the audio of its turns and the detector are those of the product, and the messages
those of a microphone. Nothing reads the frames, so that what remains is the way of the audio in.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.audio.utterance import AudioOptions
from avatar_runtime.audio.voice_activity import SileroDetector
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
from avatar_runtime.protocol.turn_detection import TurnDetection
from localcluster import speech_in_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.batching.frames import AudioWindow

CHUNK_MS: Final = 20
_FPS: Final = 25
_CONTEXT_S: Final = 30
_SILENCE_DBFS: Final = -50.0
_REFERENCES: Final = 2000  # calls that take about as long as the detector takes for 2 s of audio
_CHARACTER: Final = Character("anna", 384, 384)


@dataclass(slots=True)
class Cost:
    """CPU time and the audio that it was for, seconds."""

    audio_s: float = 0.0
    without_s: float = 0.0
    with_s: float = 0.0
    detector_s: float = 0.0
    """Of the detector alone, which gets the same pieces."""
    reference_us: float = 0.0
    """One real FFT of 1024 values: how fast the machine was meanwhile, microseconds."""

    def describe(self) -> dict[str, Any]:
        """Return the cost for the record, in percent of a core for one session."""
        return {
            "audio_s": round(self.audio_s, 1),
            "session_without_percent": self._percent(self.without_s),
            "session_with_percent": self._percent(self.with_s),
            "added_percent": self._percent(self.with_s - self.without_s),
            "detector_percent": self._percent(self.detector_s),
            "reference_fft_us": round(self.reference_us, 2),
        }

    def _percent(self, seconds: float) -> float:
        return round(100 * seconds / self.audio_s, 3)


def measure(sounds: Sequence[bytes]) -> Cost:
    """Return the cost for some sounds, PCM at 24 kHz; both kinds of session take turns."""
    cost = Cost()
    samples = np.random.default_rng(1).standard_normal(1024).astype(np.float32)
    feed(_session(TurnDetection()), _messages(sounds[0]))  # warm up
    started = time.thread_time()
    for _ in range(_REFERENCES):
        np.fft.rfft(samples)
    cost.reference_us = (time.thread_time() - started) / _REFERENCES * 1e6
    for sound in sounds:
        messages = _messages(sound)
        cost.audio_s += len(messages) * CHUNK_MS / 1000
        cost.without_s += feed(_session(None), messages)
        cost.with_s += feed(_session(TurnDetection()), messages)
        cost.detector_s += _detect(sound)
    return cost


def feed(session: Session[AudioWindow], messages: Sequence[str]) -> float:
    """Return the CPU time in which a session takes messages at the pace of a microphone."""
    now = 1000.0
    started = time.thread_time()
    for message in messages:
        now += CHUNK_MS / 1000
        session.receive(message, now)
        while session.listen(now):
            pass
        while session.pull(now) is not None:
            pass
    return time.thread_time() - started


def _detect(sound: bytes) -> float:
    detector = SileroDetector(SessionConfig(_CHARACTER).format)
    started = time.thread_time()
    for piece in _pieces(sound):
        detector.append(piece)
    return time.thread_time() - started


def _session(detection: TurnDetection | None) -> Session[AudioWindow]:
    options = AudioOptions(silence_dbfs=_SILENCE_DBFS)
    return Session(
        SessionConfig(_CHARACTER, turn_detection=detection),
        {_CHARACTER.name: _CHARACTER},
        ReadOnlyFields("sess_0a", "bench", 1_800_000_000, _FPS),
        limits=SessionLimits(7200.0, 300.0),
        open_utterance=lambda audio: AudioDecoder(audio, _FPS, _CONTEXT_S, options),
        open_detector=SileroDetector,
        now=1000.0,
    )


def _pieces(sound: bytes) -> list[bytes]:
    size = speech_in_noise.RATE * CHUNK_MS // 1000 * 2
    return [sound[at : at + size] for at in range(0, len(sound), size)]


def _messages(sound: bytes) -> list[str]:
    return [
        json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(each).decode()})
        for each in _pieces(sound)
    ]
