"""Which moments of the speech are drawn."""

from __future__ import annotations

import numpy as np

from avatar_training import crops
from avatar_training.posing import Mouth
from avatar_training.speech import STEP, Utterance


def talk(frames: int = 400) -> Utterance:
    rng = np.random.default_rng(0)
    mouth = (rng.random((2 * frames, 5)) ** 4).astype(np.float32)
    return Utterance(np.zeros(2 * frames * STEP, np.float32), mouth)


def test_a_frame_shows_the_mean_of_its_two_steps() -> None:
    track = np.array([[0.0] * 5, [0.0] * 5, [0.2] * 5, [0.4] * 5], np.float32)
    assert crops.frame_mouth(track, 1) == Mouth(*[float(np.float32(0.3))] * 5)


def test_round_and_wide_open_mouths_are_drawn_more_often_than_they_are_spoken() -> None:
    said, rng = talk(), np.random.default_rng(1)
    spoken = said.mouth.reshape(-1, 2, 5).mean(axis=1)
    drawn = np.stack([spoken[crops.moment(said, rng)] for _ in range(3000)])
    for column in (0, 2):
        assert drawn[:, column].mean() > 1.15 * spoken[:, column].mean()
    # What is not sought stays as it is spoken.
    assert abs(drawn[:, 3].mean() / spoken[:, 3].mean() - 1) < 0.1
