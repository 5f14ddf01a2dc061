"""Speech that is not part of the training: another synthesizer, and recorded readings."""

# ruff: noqa: RUF001 - the letters of the phonetic alphabet look like others

from __future__ import annotations

import subprocess
import tempfile
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_training.speech import RATE, STEP, Utterance, resample
from avatar_training.visemes import Phoneme, mouth_track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from avatar_training.visemes import Floats

FLITE_VOICES: Final = ("slt", "rms", "awb", "kal16")
"""Recorded speakers (a woman and two men, one of them Scottish) and a diphone synthesizer."""
_TESTDATA: Final = Path("/usr/share/pocketsphinx/test/data")
READINGS: Final = {"reading": _TESTDATA / "librivox", "cards": _TESTDATA / "cards"}
"""Natural speech in Debian's pocketsphinx-testdata: a LibriVox reading and names of cards."""
_PHONES_A_SECOND: Final = 100

ARPABET: Final = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ",
    "b": "b", "ch": "tʃ", "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "el": "l", "em": "m",
    "en": "n", "er": "ɜ", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h", "hv": "h", "ih": "ɪ",
    "ix": "ɪ", "iy": "i", "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ",
    "nx": "n", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t",
    "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ",
}  # fmt: skip
"""The ARPABET phones that both tools write, in IPA; without pauses."""


class MissingError(Exception):
    """The tool or the recordings are not installed; the message says how to get them."""


def symbol(phone: str) -> str:
    """Return the IPA of an ARPABET phone; empty for a pause or a noise."""
    return ARPABET.get(phone.lower().rstrip("012"), "")


def flite_speech(text: str, voice: str) -> Utterance:
    """Synthesize a sentence with flite, and return it with the times of its phones.

    Raises:
        MissingError: flite is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.wav"
        try:
            printed = subprocess.run(
                ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(file)],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
        except FileNotFoundError as error:
            raise MissingError("flite is missing: apt-get install flite") from error
        sound, rate = _read_wave(file)
    return _utterance(sound, rate, list(timed(printed)))


def timed(printed: str) -> Iterator[Phoneme]:
    """Parse the output of `flite -psdur`: `phone:end` in seconds, from zero for each sentence."""
    start = offset = 0.0
    for item in printed.split():
        name, _, stamp = item.rpartition(":")
        end = float(stamp) + offset
        if end < start:  # the next sentence of the text: its times start at zero
            offset = start
            end = float(stamp) + offset
        yield Phoneme(symbol(name), start, end)
        start = end


def readings(folder: Path) -> list[Utterance]:
    """Return each recorded sentence with the phones that pocketsphinx aligns to its words.

    Raises:
        MissingError: pocketsphinx or the recordings are not installed.
    """
    try:
        import pocketsphinx
    except ImportError as error:
        raise MissingError("pocketsphinx is missing: pip install pocketsphinx") from error
    transcription = next(folder.glob("*transcription"), None)
    if transcription is None:
        raise MissingError(f"{folder} is missing: apt-get install pocketsphinx-testdata")
    decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL", lm=None)
    made = []
    for line in transcription.read_text().splitlines():
        words, _, name = line.partition("</s>")
        text = words.replace("<s>", "").strip()
        sound, rate = _read_wave(folder / f"{name.strip().strip('()')}.wav")
        made.append(_utterance(sound, rate, _aligned(decoder, sound, text)))
    return made


def _aligned(decoder: Any, sound: Floats, text: str) -> list[Phoneme]:
    data = (sound * 32767).astype("<i2").tobytes()
    decoder.set_align_text(text)
    for again in (False, True):
        if again:
            decoder.set_alignment()
        decoder.start_utt()
        decoder.process_raw(data, full_utt=True)
        decoder.end_utt()
    found = []
    for word in decoder.get_alignment():
        for phone in word:
            start = phone.start / _PHONES_A_SECOND
            found.append(
                Phoneme(symbol(phone.name), start, start + phone.duration / _PHONES_A_SECOND)
            )
    return found


def _utterance(sound: Floats, rate: int, phonemes: Sequence[Phoneme]) -> Utterance:
    samples = resample(sound, round(len(sound) * RATE / rate))
    steps = len(samples) // STEP
    return Utterance(samples[: steps * STEP], mouth_track(phonemes, steps))


def _read_wave(file: Path) -> tuple[Floats, int]:
    with wave.open(str(file)) as sound:
        rate = int(sound.getframerate())
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return np.asarray(samples, np.float32) / np.float32(32768), rate
