"""Speech from outside: phones of other tools as mouths, and words for what is missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_training import unseen_speech
from avatar_training.speech import STEP
from avatar_training.visemes import visemes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("phone", unseen_speech.ARPABET)
def test_every_phone_has_a_mouth_shape(phone: str) -> None:
    pause = visemes("")
    assert visemes(unseen_speech.symbol(phone)) != pause


@pytest.mark.parametrize("phone", ["pau", "SIL", "+SPN+", "<sil>", "ssil"])
def test_pauses_and_noises_close_the_mouth(phone: str) -> None:
    assert unseen_speech.symbol(phone) == ""


def test_stress_marks_and_capitals_change_nothing() -> None:
    assert unseen_speech.symbol("AO1") == unseen_speech.symbol("ao") != ""


def test_a_diphthong_has_two_mouth_shapes() -> None:
    assert len(visemes(unseen_speech.symbol("aw"))) == 2
    assert len(visemes(unseen_speech.symbol("ch"))) == 2


def test_the_printed_times_of_two_sentences_are_consecutive() -> None:
    found = list(unseen_speech.timed("pau:0.1 m:0.25 aa:0.5 pau:0.1 b:0.2"))
    assert [round(p.start, 3) for p in found] == [0.0, 0.1, 0.25, 0.5, 0.6]
    assert [round(p.end, 3) for p in found] == [0.1, 0.25, 0.5, 0.6, 0.7]
    assert [p.symbol for p in found] == ["", "m", unseen_speech.symbol("aa"), "", "b"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (optional)")
def test_flite_opens_the_mouth_in_the_stressed_vowel_of_each_word() -> None:
    said = unseen_speech.flite_speech("Mama, mama.", "slt")
    assert len(said.samples) == len(said.mouth) * STEP
    opening = said.mouth[:, 0]
    assert opening.max() > 0.6
    rises = np.flatnonzero((opening[:-1] < 0.35) & (opening[1:] >= 0.35))
    assert len(rises) == 2
    assert opening[rises[0] : rises[1]].min() < 0.1


def test_the_error_for_a_missing_flite_has_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(unseen_speech.MissingError, match="apt-get install flite"):
        unseen_speech.flite_speech("Yes.", "slt")


def test_the_error_for_missing_recordings_has_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(unseen_speech.MissingError, match="install pocketsphinx"):
        unseen_speech.readings(tmp_path / "none")
