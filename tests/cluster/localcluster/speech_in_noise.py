"""Utterances of two synthesizers and of people, alone and in made noise, at 24 kHz."""

from __future__ import annotations

import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RATE: Final = 24_000
LEVEL_DBFS: Final = -26.0
"""Level of the speech, without its pauses."""
AROUND_S: Final = 1.5
"""Silence, or noise alone, before and after each utterance, seconds."""
RECORDINGS: Final = Path("/usr/share/pocketsphinx/test/data")
"""Where Debian's package pocketsphinx-testdata puts a LibriVox reading, names of cards and more."""
ESPEAK_VOICES: Final = ("en-us", "en-gb", "en-us+f3", "de", "fr")
FLITE_VOICES: Final = ("slt", "rms", "awb", "kal16", "kal")
SENTENCES: Final = (
    *("Good morning.", "What is the weather like in Lisbon today?", "No, thank you."),
    *("My order has not arrived, and it is now two weeks late.", "Seven, four, nine, two."),
    *("Could you please repeat that?", "I would like to speak to somebody about my invoice."),
    "Yes.",
)
_BLOCK_S: Final = 0.01
SPEECH_DB: Final = (-20.0, -25.0, -30.0, -35.0)
"""A block is speech if its level is above one of these, relative to the loudest tenth of the
blocks: recordings of people have breath and noise of their own. The calibration chooses one."""
_MEDIAN_BLOCKS: Final = 5
"""The level of a block is the median of so many, so that a click is no speech."""
CALIBRATION: Final = frozenset({"en-us", "en-us+f3", "slt", "kal", "kal16", "cards"})
"""The voices of the calibration. Those of one speaker are in one part, and the recordings of names
of cards are one speaker. The other voices are those of the report."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Speech as it was made."""

    kind: str
    """`espeak`, `flite` or `natural`."""
    voice: str
    """The voice of the synthesizer, or the folder of the recording."""
    sound: Floats
    """Samples from -1 to 1."""

    @property
    def calibrates(self) -> bool:
        """Whether it belongs to the calibration; otherwise to the report."""
        return self.voice in CALIBRATION


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance and where it starts and ends."""

    kind: str
    sound: Floats
    """Samples from -1 to 1, with the silence around the utterance."""
    start_s: float
    end_s: float


def speech(recordings: Path = RECORDINGS) -> list[Recording]:
    """Return all recordings.

    Raises:
        FileNotFoundError: espeak-ng, flite or the recordings are not installed.
    """
    made = [
        *(Recording("espeak", v, _espeak(text, v)) for v in ESPEAK_VOICES for text in SENTENCES),
        *(Recording("flite", v, _flite(text, v)) for v in FLITE_VOICES for text in SENTENCES),
    ]
    files = sorted([*recordings.rglob("*.wav"), *recordings.glob("*.raw")])
    if not files:
        raise FileNotFoundError(f"{recordings} has no recordings: install pocketsphinx-testdata")
    return [*made, *(Recording("natural", file.parent.name, _read(file)) for file in files)]


def add_noise(sound: Floats, noise: Floats, ratio_db: float) -> Floats:
    """Return speech with noise of which it is `ratio_db` louder; both without their pauses."""
    level = 10 ** ((LEVEL_DBFS - ratio_db) / 20)
    mixed = sound + noise[: len(sound)] * level / max(_rms(noise), 1e-9)
    return np.asarray(np.clip(mixed, -1.0, 1.0))


def pcm(sound: Floats) -> bytes:
    """Return samples as 16-bit PCM."""
    return (sound * 32767).astype("<i2").tobytes()


def _white(samples: int, random: np.random.Generator) -> Floats:
    return random.standard_normal(samples)


def _pink(samples: int, random: np.random.Generator) -> Floats:
    return _coloured(samples, random, 0.5)


def _fan(samples: int, random: np.random.Generator) -> Floats:
    """Return rumble with the tones of blades."""
    time = np.arange(samples) / RATE
    tones = sum(np.sin(2 * np.pi * 87.0 * n * time + n) / n for n in range(1, 6))
    return np.asarray(_coloured(samples, random, 1.0) + 0.3 * tones)


def _keyboard(samples: int, random: np.random.Generator) -> Floats:
    """Return about seven keystrokes a second."""
    noise = np.zeros(samples)
    at = 0
    while (at := at + int(random.exponential(0.14) * RATE) + 600) < samples:
        length = min(int(random.uniform(0.01, 0.04) * RATE), samples - at)
        decay = np.exp(-np.arange(length) / (0.15 * length))
        noise[at : at + length] += random.standard_normal(length) * decay * random.uniform(0.4, 1)
    return noise


def _music(samples: int, random: np.random.Generator) -> Floats:
    """Return notes with overtones, two a second, three at a time."""
    noise, time = np.zeros(samples), np.arange(RATE) / RATE
    for at in range(0, samples, RATE // 2):
        for step in random.choice(24, 3, replace=False):
            pitch = 130.8 * 2 ** (step / 12)
            note = sum(np.sin(2 * np.pi * pitch * n * time) / n**1.5 for n in range(1, 7))
            part = (note * np.exp(-2.5 * time))[: samples - at]
            noise[at : at + len(part)] += part
    return noise


NOISES: Final[Mapping[str, Callable[[int, np.random.Generator], Floats]]] = {
    "white": _white,
    "pink": _pink,
    "fan": _fan,
    "keyboard": _keyboard,
    "music": _music,
}
STEADY: Final = frozenset({"white", "pink", "fan"})


def _coloured(samples: int, random: np.random.Generator, slope: float) -> Floats:
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20.0) ** slope
    coloured = np.fft.irfft(spectrum, samples)
    return np.asarray(coloured / _rms(coloured))


def utterance(recording: Recording, speech_db: float) -> Utterance:
    """Return a recording at `LEVEL_DBFS`, with its ends where its level crosses `speech_db`."""
    sound = recording.sound
    size = int(_BLOCK_S * RATE)
    blocks = sound[: len(sound) // size * size].reshape(-1, size)
    levels = 20 * np.log10(np.maximum(np.sqrt((blocks**2).mean(axis=1)), 1e-9))
    padded = np.pad(levels, _MEDIAN_BLOCKS // 2, mode="edge")
    near = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_BLOCKS)
    levels = np.median(near, axis=1)
    loudest = np.sort(levels)[-max(1, len(levels) // 10) :].mean()
    spoken = np.flatnonzero(levels > loudest + speech_db)
    first, last = int(spoken[0]), int(spoken[-1]) + 1
    sound = sound[first * size : last * size]
    active = blocks[spoken].ravel()
    sound = sound * 10 ** (LEVEL_DBFS / 20) / _rms(active)
    around = np.zeros(int(AROUND_S * RATE))
    end_s = AROUND_S + (last - first) * _BLOCK_S
    return Utterance(recording.kind, np.concatenate([around, sound, around]), AROUND_S, end_s)


def _espeak(text: str, voice: str) -> Floats:
    return _spoken(lambda file: ["espeak-ng", "-v", voice, "-w", file, text])


def _flite(text: str, voice: str) -> Floats:
    return _spoken(lambda file: ["flite", "-voice", voice, "-t", text, "-o", file])


def _spoken(argv: Callable[[str], Sequence[str]]) -> Floats:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.wav"
        subprocess.run(argv(str(file)), check=True, capture_output=True)
        return _read(file)


def _read(file: Path) -> Floats:
    if file.suffix == ".raw":  # 16 kHz, as the package has them
        return _resampled(np.frombuffer(file.read_bytes(), "<i2"), 16_000)
    with wave.open(str(file)) as sound:
        if sound.getsampwidth() != 2 or sound.getnchannels() != 1:
            raise ValueError(f"{file} is not 16-bit mono")
        data = sound.readframes(sound.getnframes())
        return _resampled(np.frombuffer(data, "<i2"), sound.getframerate())


def _resampled(samples: NDArray[Any], rate: int) -> Floats:
    spectrum, size = np.fft.rfft(samples / 32768), len(samples) * RATE // rate
    bins = np.zeros(size // 2 + 1, complex)
    kept = min(len(bins), len(spectrum))
    bins[:kept] = spectrum[:kept]
    return np.asarray(np.fft.irfft(bins, size) * size / len(samples))


def _rms(samples: Floats) -> float:
    return float(np.sqrt(np.mean(samples**2)))
