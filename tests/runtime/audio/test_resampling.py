"""Resampling to 16 kHz: alignment, bands, and indifference to how the input was cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.audio import resampling


def _tone(rate: int, hz: float, seconds: float = 0.4) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def _all_at_once(rate: int, samples: np.ndarray) -> np.ndarray:
    resampler = resampling.Resampler(rate)
    return np.concatenate([resampler.push(samples), resampler.finish()])


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_a_tone_keeps_its_phase_and_its_level(rate: int) -> None:
    resampled = _all_at_once(rate, _tone(rate, 1000))

    middle = slice(400, len(resampled) - 400)  # the ends hear the silence around the tone
    assert np.abs(resampled - _tone(16_000, 1000))[middle].max() < 1e-3


def test_what_16_khz_cannot_hold_is_removed() -> None:
    resampled = _all_at_once(24_000, _tone(24_000, 10_000))

    assert np.abs(resampled[400:-400]).max() < 1e-3


def test_doubling_the_rate_makes_no_mirror_image() -> None:
    spectrum = np.abs(np.fft.rfft(_all_at_once(8_000, _tone(8_000, 3000))[640:5440]))

    assert spectrum[5000 * 4800 // 16_000] < 1e-3 * spectrum[3000 * 4800 // 16_000]


def test_the_model_rate_passes_unchanged() -> None:
    samples = _tone(16_000, 440)

    assert np.array_equal(_all_at_once(16_000, samples), samples.astype(np.float32))


@pytest.mark.parametrize(("rate", "samples", "blocks"), [(24_000, 1, 1), (8_000, 161, 2)])
def test_the_end_is_filled_up_to_whole_steps(rate: int, samples: int, blocks: int) -> None:
    assert len(_all_at_once(rate, np.ones(samples))) == blocks * 320


@pytest.mark.parametrize("rate", resampling.INPUT_RATES)
@pytest.mark.parametrize("before", [0, 100, 5000])
@pytest.mark.parametrize("samples", [1, 320, 321, 512])
def test_the_samples_that_are_needed_are_enough_and_not_too_many(
    rate: int, before: int, samples: int
) -> None:
    resampler = resampling.Resampler(rate)
    resampler.push(np.zeros(before))
    needed = resampler.needed(samples)
    made = len(resampler.push(np.zeros(needed - 1)))
    assert made < samples
    assert made + len(resampler.push(np.zeros(1))) >= samples


def test_no_input_gives_no_output() -> None:
    assert len(_all_at_once(24_000, np.zeros(0))) == 0


@given(
    rate=st.sampled_from(resampling.INPUT_RATES),
    cuts=st.lists(st.integers(0, 5000), max_size=8),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40)
def test_splits_change_no_bit(rate: int, cuts: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, 5000)
    resampler = resampling.Resampler(rate)
    edges = [0, *sorted(cuts), len(samples)]

    parts = [resampler.push(samples[a:b]) for a, b in itertools.pairwise(edges)]

    whole = np.concatenate([*parts, resampler.finish()])
    assert np.array_equal(whole, _all_at_once(rate, samples))
