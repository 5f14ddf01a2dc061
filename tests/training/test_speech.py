"""Speech with known mouths, from the real espeak-ng."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys

import numpy as np
import pytest

from avatar_training import speech
from avatar_training.speech import HELD_OUT_VOICES, RATE, STEP, Synthesizer, Voice, utterance


def _has_espeak() -> bool:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _has_espeak(), reason="libespeak-ng1 is not installed"),
]


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def test_phonemes_cover_the_sound_in_order(synthesizer: Synthesizer) -> None:
    sound, phonemes = synthesizer.speak("Mama, papa.", Voice("en-us"))
    assert next(p.symbol for p in phonemes if p.symbol) == "m"
    assert all(a.end == b.start for a, b in itertools.pairwise(phonemes))
    assert phonemes[-1].end == pytest.approx(len(sound) / synthesizer.rate)


def test_the_mouth_is_closed_in_each_m_and_open_in_each_a(synthesizer: Synthesizer) -> None:
    text, voice = "Mama, mama.", Voice("en-us", 120)
    said = utterance(synthesizer, text, voice, lead_s=0.0)
    _, phonemes = synthesizer.speak(text, voice)
    opening = said.mouth[:, 0]
    for phoneme in phonemes:
        middle = int((phoneme.start + phoneme.end) / 2 * 50)
        if phoneme.symbol == "m":
            assert opening[middle] < 0.2
        if phoneme.symbol == "ɑː":  # noqa: RUF001 - a phonetic letter
            assert opening[middle] > 0.75


def test_an_utterance_is_whole_steps_with_silence_around_it(synthesizer: Synthesizer) -> None:
    said = utterance(synthesizer, "Good evening.", Voice("en-gb-x-rp"), stretch=1.1)
    assert len(said.samples) == len(said.mouth) * STEP
    assert np.abs(said.samples[: RATE // 10]).max() == 0
    assert said.mouth[:2, 0].max() < 0.02


def test_stretching_moves_the_mouth_with_the_sound(synthesizer: Synthesizer) -> None:
    plain, slow = (utterance(synthesizer, "Boys.", Voice("en-us"), s, 0.0) for s in (1.0, 1.15))
    assert np.argmax(slow.mouth[:, 2]) / np.argmax(plain.mouth[:, 2]) == pytest.approx(
        1.15, abs=0.12
    )


def test_an_even_pace_changes_no_time() -> None:
    times = np.array([0.0, 0.2, 1.0, 9.0])
    assert speech.Pace(np.ones(4, np.float32)).later(times) == pytest.approx(times)


def test_a_pace_keeps_the_order_and_its_last_factor_applies_to_the_rest() -> None:
    pace = speech.Pace(np.array([1.2, 0.8, 1.1, 0.9], np.float32))
    times = np.linspace(0, 6, 200)
    later = pace.later(times)
    assert (np.diff(later) > 0).all()
    assert later[-1] - later[-2] == pytest.approx(0.9 * (times[-1] - times[-2]))


def test_an_uneven_pace_moves_sound_and_mouth_together(synthesizer: Synthesizer) -> None:
    text, voice = "Mama. Mama.", Voice("en-us", 120)
    plain = utterance(synthesizer, text, voice, lead_s=0.0)
    slow = speech.Pace(np.full(64, 1.15, np.float32))
    paced = utterance(synthesizer, text, voice, lead_s=0.0, pace=slow)
    assert len(paced.mouth) / len(plain.mouth) == pytest.approx(1.15, abs=0.03)
    loud = [np.abs(said.samples.reshape(-1, STEP)).max(axis=1) > 0.05 for said in (plain, paced)]
    for said, heard in zip((plain, paced), loud, strict=True):
        opened = said.mouth[:, 0] > 0.6
        assert heard[opened].mean() > 0.9
    assert np.argmax(loud[1][::-1]) <= 1.3 * np.argmax(loud[0][::-1]) + 2


def test_a_corpus_depends_only_on_its_seed() -> None:
    # In fresh processes: the library's own random numbers go on from one utterance to the next.
    program = (
        "import hashlib, sys; from avatar_training import speech as s;"
        "made = s.corpus(s.Synthesizer(), 0.3, int(sys.argv[1]));"
        "print(hashlib.sha256(b''.join(u.samples.tobytes() for u in made)).hexdigest())"
    )
    one, same, other = (
        subprocess.run([sys.executable, "-c", program, seed], capture_output=True, check=True)
        for seed in ("5", "5", "6")
    )
    assert one.stdout == same.stdout
    assert one.stdout != other.stdout


def test_held_out_voices_exist_and_are_not_used_in_training(synthesizer: Synthesizer) -> None:
    for name in HELD_OUT_VOICES:
        assert len(synthesizer.speak("Yes.", Voice(name))[0]) > 1000
        assert name.split("+")[1] not in speech.VARIANTS


def test_an_unknown_voice_is_rejected_by_name(synthesizer: Synthesizer) -> None:
    with pytest.raises(speech.SpeechError, match="xx-none"):
        synthesizer.speak("Hello.", Voice("xx-none"))
