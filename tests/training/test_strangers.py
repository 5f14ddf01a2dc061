"""Speech from outside: phones of other tools as mouths, and words for what is missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_training import strangers
from avatar_training.speech import STEP
from avatar_training.visemes import visemes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("phone", strangers.ARPABET)
def test_every_phone_has_a_mouth_of_its_own(phone: str) -> None:
    pause = visemes("")
    assert visemes(strangers.symbol(phone)) != pause


@pytest.mark.parametrize("phone", ["pau", "SIL", "+SPN+", "<sil>", "ssil"])
def test_pauses_and_noises_close_the_mouth(phone: str) -> None:
    assert strangers.symbol(phone) == ""


def test_stress_marks_and_capitals_change_nothing() -> None:
    assert strangers.symbol("AO1") == strangers.symbol("ao") != ""


def test_a_diphthong_passes_through_two_mouths() -> None:
    assert len(visemes(strangers.symbol("aw"))) == 2
    assert len(visemes(strangers.symbol("ch"))) == 2


def test_printed_times_of_two_sentences_go_on_one_after_the_other() -> None:
    found = list(strangers.timed("pau:0.1 m:0.25 aa:0.5 pau:0.1 b:0.2"))
    assert [round(p.start, 3) for p in found] == [0.0, 0.1, 0.25, 0.5, 0.6]
    assert [round(p.end, 3) for p in found] == [0.1, 0.25, 0.5, 0.6, 0.7]
    assert [p.symbol for p in found] == ["", "m", strangers.symbol("aa"), "", "b"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (optional)")
def test_flite_opens_the_mouth_in_the_stressed_vowel_of_each_word() -> None:
    said = strangers.flite_speech("Mama, mama.", "slt")
    assert len(said.samples) == len(said.mouth) * STEP
    opening = said.mouth[:, 0]
    assert opening.max() > 0.6
    rises = np.flatnonzero((opening[:-1] < 0.35) & (opening[1:] >= 0.35))
    assert len(rises) == 2
    assert opening[rises[0] : rises[1]].min() < 0.1


def test_a_missing_flite_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(strangers.MissingError, match="apt-get install flite"):
        strangers.flite_speech("Yes.", "slt")


def test_missing_recordings_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(strangers.MissingError, match="install pocketsphinx"):
        strangers.readings(tmp_path / "none")
