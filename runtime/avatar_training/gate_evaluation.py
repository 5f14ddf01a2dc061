"""Compares the voice gate with one that only measures energy, on speech over noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.audio import energy, noise
from avatar_training import unseen_speech
from avatar_training.sentences import HELD_OUT_SENTENCES
from avatar_training.speech import HELD_OUT_VOICES, RATE, Synthesizer, Voice, utterance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Sound = NDArray[np.float64]
    Background = Callable[[int], Sound]

LEARNED_FRAMES: Final = 63
"""Frames of each recording that are not counted, since the noise is being learned: 2.5 s."""
SPEECH_DBFS: Final = (-20, -32)
"""Mean levels of the speech: a voice near the microphone, and a quiet one."""
_LEAD_S: Final = 3.0
_PAUSES_S: Final = (0.8, 1.4, 2.0, 2.6)
_OWN_STEPS: Final = 2  # of a frame at 25 a second
_PLAIN_HOLD_STEPS: Final = 6


@dataclass(slots=True)
class EnergyGate:
    """The baseline: a step is speech from the level, and silence 6 dB below it for 120 ms."""

    level_dbfs: float = energy.SPEECH_DBFS
    _open: bool = False
    _silent_steps: int = 0

    def is_speech(self, samples: NDArray[np.float32]) -> bool:
        level = 10 * np.log10(max(float(np.mean(np.square(samples, dtype=np.float64))), 1e-12))
        if level >= self.level_dbfs:
            self._open, self._silent_steps = True, 0
        elif level >= self.level_dbfs - energy.HYSTERESIS_DB:
            self._silent_steps = 0
        else:
            self._silent_steps += 1
            self._open = self._open and self._silent_steps <= _PLAIN_HOLD_STEPS
        return self._open


def evaluate(seed: int = 0) -> dict[str, Any]:
    """Return the frames of speech that each gate misses, and those of silence that it draws.

    A frame is speech if the baseline draws it for the clean recording. Rows are named by the level
    of the speech and by the background.

    Raises:
        SpeechError: espeak-ng is missing.
        MissingError: flite is missing.
    """
    voices = recordings()
    rows: dict[str, Any] = {}
    for level in SPEECH_DBFS:
        spoken = [_scaled(voice, level, np.abs(voice) > 0) for voice in voices]
        for name, background in backgrounds(voices, np.random.default_rng(seed)).items():
            rows[f"speech at {level} dBFS, {name}"] = _row(spoken, background)
    return rows


def recordings() -> list[Sound]:
    """Return four sentences by each voice, with pauses between them and silence before."""
    synthesizer = Synthesizer()
    spoken: list[list[Sound]] = []
    sentences = HELD_OUT_SENTENCES[: len(_PAUSES_S)]
    for name in HELD_OUT_VOICES:
        voice = Voice(name)
        spoken.append(
            [utterance(synthesizer, s, voice).samples.astype(np.float64) for s in sentences]
        )
    for name in unseen_speech.FLITE_VOICES:
        made = [unseen_speech.flite_speech(sentence, name).samples for sentence in sentences]
        spoken.append([samples.astype(np.float64) for samples in made])
    return [_with_pauses(sounds) for sounds in spoken]


def backgrounds(voices: Sequence[Sound], rng: np.random.Generator) -> Mapping[str, Background]:
    """Return makers of backgrounds of a number of samples, by name."""

    def babble(samples: int) -> Sound:
        starts = rng.integers(0, samples, len(voices))
        shifted = [np.roll(np.resize(v, samples), s) for v, s in zip(voices, starts, strict=True)]
        return np.asarray(np.sum(shifted, axis=0))

    def white(samples: int) -> Sound:
        return rng.standard_normal(samples)

    def pink(samples: int) -> Sound:
        spectrum = np.fft.rfft(white(samples))
        spectrum[: 20 * samples // RATE] = 0
        rising = np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        return np.asarray(np.fft.irfft(spectrum / rising, samples))

    return {
        "clean": np.zeros,
        "DC of 200/32768": lambda samples: np.full(samples, 200 / 32768),
        "hum 50 Hz at -48 dBFS": lambda samples: _scaled(_hum(samples, 50), -48),
        "hum 60 Hz at -48 dBFS": lambda samples: _scaled(_hum(samples, 60), -48),
        "white noise at -46 dBFS": lambda samples: _scaled(white(samples), -46),
        "pink noise at -46 dBFS": lambda samples: _scaled(pink(samples), -46),
        "white noise at -40 dBFS": lambda samples: _scaled(white(samples), -40),
        "pink noise at -40 dBFS": lambda samples: _scaled(pink(samples), -40),
        "babble at -46 dBFS": lambda samples: _scaled(babble(samples), -46),
        "babble at -60 dBFS": lambda samples: _scaled(babble(samples), -60),
    }


def drawn_frames(sound: Sound, gate: energy.Gate) -> NDArray[np.bool_]:
    """Return which frames of a recording show a generated mouth."""
    mouth = energy.MouthEnvelope(gate)
    steps = np.split(sound[: len(sound) // noise.STEP * noise.STEP], len(sound) // noise.STEP)
    drawn = []
    for first in range(0, len(steps) - energy.AHEAD_STEPS, _OWN_STEPS):
        for step in steps[mouth.steps_seen : first + energy.AHEAD_STEPS]:
            mouth.push(step.astype(np.float32))
        drawn.append(mouth.opacity(first, _OWN_STEPS) > 0)
    return np.array(drawn)


def _row(spoken: Sequence[Sound], background: Background) -> dict[str, str]:
    found: dict[str, list[NDArray[np.bool_]]] = {"speech": [], "energy": [], "gate": []}
    for sound in spoken:
        mixed = sound + background(len(sound))
        found["speech"].append(drawn_frames(sound, EnergyGate())[LEARNED_FRAMES:])
        found["energy"].append(drawn_frames(mixed, EnergyGate())[LEARNED_FRAMES:])
        gate = energy.VoiceActivityGate(energy.SPEECH_DBFS)
        found["gate"].append(drawn_frames(mixed, gate)[LEARNED_FRAMES:])
    speech, plain, ours = (np.concatenate(parts) for parts in found.values())
    both = np.stack([plain, ours])
    counts = {"missed": ~both & speech, "drawn": both & ~speech}
    totals = {"missed": speech.sum(), "drawn": (~speech).sum()}
    return {
        f"{kind} by {name}": f"{counts[kind][i].sum()} of {totals[kind]}"
        for i, name in enumerate(("energy", "gate"))
        for kind in counts
    }


def _scaled(sound: Sound, dbfs: float, where: NDArray[np.bool_] | None = None) -> Sound:
    """Return a sound with another mean level, which `where` limits to its own samples."""
    power = np.mean((sound if where is None else sound[where]) ** 2)
    return np.asarray(sound * 10 ** (dbfs / 20) / np.sqrt(power))


def _with_pauses(sounds: Sequence[Sound]) -> Sound:
    parts = [np.zeros(round(_LEAD_S * RATE))]
    for sound, pause in zip(sounds, _PAUSES_S, strict=True):
        parts += [sound, np.zeros(round(pause * RATE))]
    return np.concatenate(parts)


def _hum(samples: int, hertz: float) -> Sound:
    """Return a hum whose harmonics fall by 6 dB an octave."""
    times = np.arange(samples) / RATE
    return np.asarray(
        np.sum([np.sin(2 * np.pi * hertz * k * times + k) / k for k in range(1, 9)], axis=0)
    )
