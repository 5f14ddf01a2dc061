"""Phonemes to mouth shapes."""

# ruff: noqa: RUF001 - the letters of the phonetic alphabet look like others

from __future__ import annotations

import numpy as np
import pytest

from avatar_training.visemes import MOUTH, REST, STEP_S, Phoneme, mouth_track, visemes

OPEN, WIDE, ROUND = MOUTH.index("open"), MOUTH.index("wide"), MOUTH.index("round")


def spoken(*symbols: str, each_s: float = 0.12) -> tuple[list[Phoneme], int]:
    phonemes = [Phoneme(s, i * each_s, (i + 1) * each_s) for i, s in enumerate(symbols)]
    return phonemes, round(len(symbols) * each_s / STEP_S)


def test_the_mouth_is_at_rest_in_silence() -> None:
    assert np.allclose(mouth_track(*spoken("", "")), REST)


@pytest.mark.parametrize("closing", ["p", "b", "m"])
def test_lips_close_between_two_open_vowels(closing: str) -> None:
    track = mouth_track(*spoken("ɑː", closing, "ɑː"))
    middle = track[len(track) // 2, OPEN]
    assert middle < 0.1
    assert track[:3, OPEN].min() > 0.9
    assert track[-3:, OPEN].min() > 0.9


def test_a_diphthong_moves_from_its_first_vowel_to_its_second() -> None:
    track = mouth_track(*spoken("aʊ", each_s=0.3))
    assert track[2, OPEN] > track[-3, OPEN] + 0.4
    assert track[-3, ROUND] > track[2, ROUND] + 0.4


def test_vowels_differ_in_spread_and_rounding() -> None:
    spread, rounded = (mouth_track(*spoken(s))[3] for s in ("iː", "uː"))
    assert spread[WIDE] > 0.9
    assert rounded[WIDE] < 0.2
    assert rounded[ROUND] > 0.9


def test_the_mouth_moves_smoothly_and_within_its_range() -> None:
    track = mouth_track(*spoken(*"hɑmiubɑsɪθoʊ", each_s=0.07))
    assert track.min() >= 0
    assert track.max() <= 1
    assert np.abs(np.diff(track, axis=0)).max() < 0.45


def test_the_mouth_is_at_rest_80_ms_after_the_last_sound() -> None:
    track = mouth_track(*spoken("ɑː", "", each_s=0.4))
    assert track[20 + 4 :, OPEN].max() < 0.05


def test_the_mouth_is_at_rest_for_an_unknown_symbol() -> None:
    assert visemes("?")[0].open == 0
