"""What the training does to its sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_training import augmentation
from avatar_training.audio_stage import LogMel
from avatar_training.speech import RATE, STEP

STEPS = 50


def tone(hertz: float) -> torch.Tensor:
    at = np.arange(STEPS * STEP) / RATE
    return torch.from_numpy(0.3 * np.sin(2 * np.pi * hertz * at).astype(np.float32))[None]


def padded(count: int, real: int) -> torch.Tensor:
    weight = torch.zeros(count, STEPS)
    weight[:, :real] = 1
    return weight


def test_retuning_changes_all_but_the_padding() -> None:
    mel = LogMel()(tone(500.0)).repeat(8, 1, 1)
    changed = augmentation.retune(mel, padded(8, 30), np.random.default_rng(1))
    assert torch.equal(changed[:, :, 60:], mel[:, :, 60:])
    assert (changed[:, :, :60] - mel[:, :, :60]).abs().amax(dim=(1, 2)).min() > 0.02


def test_retuning_moves_the_formant_by_less_than_two_and_a_half_semitones() -> None:
    mel = LogMel()(tone(1000.0)).repeat(64, 1, 1)
    changed = augmentation.retune(mel, padded(64, STEPS), np.random.default_rng(2))
    peaks = changed.mean(dim=2).argmax(dim=1)
    at_rest = int(mel[0].mean(dim=1).argmax())
    assert int((peaks - at_rest).abs().max()) <= 4
    assert len(set(peaks.tolist())) >= 3
    # Up as often as down: the middle throat is the one that spoke.
    assert abs(float(peaks.float().mean()) - at_rest) < 1


def test_a_breath_is_added_only_where_the_mouth_is_closed() -> None:
    rng = np.random.default_rng(3)
    samples = np.zeros((40, STEPS * STEP), np.float32)
    mouth = np.zeros((40, STEPS, 5), np.float32)
    mouth[:, 20:] = 0.5
    weight = np.ones((40, STEPS), np.float32)
    weight[:, :4] = 0
    augmentation.breathe(samples, mouth, weight, rng)
    loudness = np.abs(samples.reshape(40, STEPS, STEP)).max(axis=2)
    assert loudness[:, 20:].max() == 0
    assert loudness[:, :4].max() == 0
    breathing = (loudness.max(axis=1) > 0).sum()
    assert 1 <= breathing <= 15


def test_a_sentence_without_a_pause_gets_no_breath() -> None:
    samples = np.zeros((40, STEPS * STEP), np.float32)
    mouth = np.full((40, STEPS, 5), 0.5, np.float32)
    augmentation.breathe(samples, mouth, np.ones((40, STEPS), np.float32), np.random.default_rng(4))
    assert np.abs(samples).max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_augmented_audio_is_finite_bounded_and_depends_only_on_the_seed(seed: int) -> None:
    samples = tone(300.0).repeat(6, 1).numpy()
    weight = padded(6, 40).numpy()
    one, same = (
        augmentation.augment(samples, weight, np.random.default_rng(seed)) for _ in range(2)
    )
    assert torch.equal(one, same)
    assert one.isfinite().all()
    assert float(one.abs().max()) <= 1
    assert float(one[:, 40 * STEP :].abs().max()) == 0
    assert float(one[:, : 40 * STEP].std(dim=1).min()) > 1e-3
