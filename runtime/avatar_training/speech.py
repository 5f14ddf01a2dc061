"""Speech with exact phoneme timings from espeak-ng, in many voices; used only for training."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from avatar_training.sentences import TRAINING_WORDS
from avatar_training.visemes import Floats, Phoneme, mouth_track

if TYPE_CHECKING:
    from collections.abc import Sequence

RATE: Final = 16_000
STEP: Final = 320
"""Samples of one 20 ms step at 16 kHz."""

_LANGUAGES: Final = (
    "en-us en-us en-us en en en-gb-x-rp en-gb-x-rp en-gb-scotland en-029 en-us-nyc en-gb-x-gbclan "
    "en-gb-x-gbcwmd de nl es it fr pt"
).split()
VARIANTS: Final = (
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f3 f5 klatt klatt2 klatt4 klatt6 croak adam Alex Alicia Andy "
    "anika antonio aunty belinda benjamin caleb david Denis Diogo ed edward2 Gene grandma "
    "grandpa gustave Henrique Hugo iven iven3 Jacky john kaukovalta Lee linda Marco marcelo "
    "max Michael miguel Mike norbert pablo paul pedro quincy rob robert sandro shelby steph "
    "steph3 travis zac whisper"
).split()
_PACE_S: Final = 0.35
_PACE_DEVIATION: Final = 0.06
_PACE_KNOTS: Final = 64
HELD_OUT_VOICES: Final = ("en-us+f4", "en-gb-x-rp+m5", "en-us+Andrea", "en+victor")
"""Voice variants that are not used in training, with any language."""


class SpeechError(Exception):
    """espeak-ng is missing or does not have a voice."""


@dataclass(frozen=True, slots=True)
class Voice:
    """The voice parameters of one utterance."""

    name: str
    words_per_minute: int = 165
    pitch: int = 50
    intonation: int = 50


@dataclass(frozen=True, slots=True)
class Utterance:
    """Audio and the mouth shapes of the same time."""

    samples: Floats
    """Mono in [-1, 1] at 16 kHz; a whole number of 20 ms steps."""
    mouth: Floats
    """`(steps, 5)`: the columns of `visemes.MOUTH`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The time stretch of an utterance, as factors at fixed intervals."""

    slowness: Floats
    """`(n,)`, about 1; the last one applies to the rest."""

    def later(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the new times of `times`, in seconds."""
        grid = np.arange(len(self.slowness) + 1) * _PACE_S
        middle = np.interp((grid[:-1] + grid[1:]) / 2, grid[:-1], self.slowness)
        shifted = np.concatenate([[0.0], np.cumsum(middle) * _PACE_S])
        beyond = np.maximum(times - grid[-1], 0) * self.slowness[-1]
        return np.asarray(np.interp(times, grid, shifted) + beyond)


class _Event(ctypes.Structure):
    _fields_ = (  # espeak_EVENT of speak_lib.h
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_SYNCHRONOUS: Final = 2
_PHONEME_EVENTS_IN_IPA: Final = 1 | 2
_LIST_END: Final = 0
_PHONEME: Final = 7
_UTF8: Final = 1
_PARAMETERS: Final = (("words_per_minute", 1), ("pitch", 3), ("intonation", 4))


class Synthesizer:
    """The espeak-ng library; one per process, since the library keeps one voice."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise SpeechError("libespeak-ng is missing: apt-get install espeak-ng") from error
        self.rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, 200, None, _PHONEME_EVENTS_IN_IPA
        )
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._receive)  # must exist as long as the library
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: object, count: int, events: object) -> int:
        if count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        position = 0
        while (event := events[position]).type != _LIST_END:  # type: ignore[index]
            if event.type == _PHONEME:
                self._events.append((event.sample, event.string.decode("utf-8", "ignore")))
            position += 1
        return 0

    def speak(self, text: str, voice: Voice) -> tuple[npt.NDArray[np.int16], list[Phoneme]]:
        """Return the sound at `rate` and its phonemes.

        Raises:
            SpeechError: the library does not have the voice.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()):
            raise SpeechError(f"espeak-ng has no voice {voice.name!r}")
        for field, number in _PARAMETERS:
            self._library.espeak_SetParameter(number, getattr(voice, field), 0)
        self._chunks.clear()
        self._events.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        sound = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
        ends = [sample for sample, _ in self._events[1:]] + [len(sound)]
        phonemes = [
            Phoneme(symbol, start / self.rate, end / self.rate)
            for (start, symbol), end in zip(self._events, ends, strict=True)
        ]
        return sound, phonemes


def resample(sound: npt.NDArray[np.generic], length: int) -> Floats:
    """Return `sound` with another length: low-pass by FFT, then linear resampling."""
    signal = sound.astype(np.float32)
    if length < len(signal):
        spectrum = np.fft.rfft(signal)
        spectrum[int(len(spectrum) * length / len(signal)) :] = 0
        signal = np.fft.irfft(spectrum, len(signal)).astype(np.float32)
    at = np.linspace(0, len(signal) - 1, length)
    return np.interp(at, np.arange(len(signal)), signal).astype(np.float32)


def utterance(
    synthesizer: Synthesizer,
    text: str,
    voice: Voice,
    stretch: float = 1.0,
    lead_s: float = 0.2,
    pace: Pace | None = None,
) -> Utterance:
    """Return speech with `lead_s` of silence around it.

    `stretch` above 1 plays it slower, which moves pitch and formants as another vocal tract does.
    `pace` changes the speed over time: people speak unevenly, and their pitch varies.
    """
    sound, phonemes = synthesizer.speak(text, voice)
    scaled = resample(sound, round(len(sound) / synthesizer.rate * RATE * stretch)) / 32768
    if pace is not None:
        times = pace.later(np.arange(len(scaled)) / (RATE * stretch)) * stretch
        scaled = np.interp(np.arange(math.floor(times[-1] * RATE)) / RATE, times, scaled).astype(
            np.float32
        )
        phonemes = [
            Phoneme(p.symbol, *(float(t) for t in pace.later(np.array([p.start, p.end]))))
            for p in phonemes
        ]
    lead = round(lead_s * RATE / STEP) * STEP
    steps = -(-(len(scaled) + 2 * lead) // STEP)
    samples = np.zeros(steps * STEP, np.float32)
    samples[lead : lead + len(scaled)] = scaled
    shift = lead / RATE
    moved = [
        Phoneme(p.symbol, p.start * stretch + shift, p.end * stretch + shift) for p in phonemes
    ]
    return Utterance(samples, mouth_track(moved, steps))


def random_text(rng: np.random.Generator, words: int) -> str:
    """Return random real and invented words with the pauses of a text."""
    parts = []
    for _ in range(words):
        word = (
            _invented_word(rng)
            if rng.random() < 0.25
            else TRAINING_WORDS[rng.integers(len(TRAINING_WORDS))]
        )
        mark = rng.random()
        parts.append(word + ("." if mark < 0.06 else "," if mark < 0.14 else ""))
    return " ".join(parts) + "."


def _invented_word(rng: np.random.Generator) -> str:
    heads = "b p m f v th s z sh ch j t d n l r w y k g h br pl st fr tw".split()
    cores = "a e i o u ee oo ai ow oy ar or er ea ay".split()
    tails = ["", "", "", "m", "b", "p", "f", "n", "t", "s", "k", "l", "sh", "ng"]
    syllables = [
        str(rng.choice(heads)) + str(rng.choice(cores)) + str(rng.choice(tails))
        for _ in range(rng.integers(1, 4))
    ]
    return "".join(syllables)


def corpus(synthesizer: Synthesizer, minutes: float, seed: int) -> Sequence[Utterance]:
    """Return about `minutes` of training speech, reproducible from `seed`."""
    rng = np.random.default_rng(seed)
    made: list[Utterance] = []
    total = 0.0
    while total < minutes * 60:
        variant = VARIANTS[rng.integers(len(VARIANTS))]
        language = _LANGUAGES[rng.integers(len(_LANGUAGES))]
        voice = Voice(
            language if rng.random() < 0.15 else f"{language}+{variant}",
            int(rng.integers(115, 215)),
            int(rng.integers(20, 85)),
            int(rng.integers(20, 85)),
        )
        text = random_text(rng, int(rng.integers(12, 30)))
        uneven = np.exp(np.clip(rng.normal(0, _PACE_DEVIATION, _PACE_KNOTS), -0.25, 0.25))
        pace = Pace(uneven.astype(np.float32))
        said = utterance(synthesizer, text, voice, float(rng.uniform(0.85, 1.18)), 0.6, pace)
        made.append(said)
        total += len(said.samples) / RATE
    return made
