"""The measures of pictures, on frames whose faults are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avatar_training import picture_checks
from avatar_training.crops import frame_mouth
from avatar_training.rendering import DrawnAvatar
from avatar_training.speech import STEP, Utterance

FRAMES = 6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def avatar() -> DrawnAvatar:
    return DrawnAvatar(Path(__file__).parents[2] / "examples" / "avatars" / "anna")


@pytest.fixture(scope="module")
def said() -> Utterance:
    mouth = np.tile(np.array([0, 0.5, 0, 0, 0], np.float32), (2 * FRAMES, 1))
    mouth[:, 0] = np.repeat([0, 0.3, 0.8, 0.9, 0.4, 0.0], 2)
    return Utterance(np.zeros(2 * FRAMES * STEP, np.float32), mouth)


@pytest.fixture(scope="module")
def truth(avatar: DrawnAvatar, said: Utterance) -> list[np.ndarray]:
    return [avatar.drawn(frame, frame_mouth(said.mouth, frame)) for frame in range(FRAMES)]


def test_the_drawn_truth_has_no_error_and_flickers_beside_the_mouth_less_than_what_is_stored(
    avatar: DrawnAvatar, said: Utterance, truth: list[np.ndarray]
) -> None:
    report = picture_checks.compare(avatar, said, truth)
    assert report["mouth_psnr_db"] == pytest.approx(100)
    assert report["border_error_levels"] == report["inside_error_levels"] == 0
    still = report["flicker_outside_what_the_truth_moves"]
    assert isinstance(still, dict)
    # No JPEG has touched these, both of the others two.
    assert still["generated"] < still["source"]
    # A JPEG's blocks carry what moves inside the mouth a little beside it.
    assert still["source"] <= still["drawn"] < 1.1 * still["source"]


def test_noise_that_changes_from_frame_to_frame_is_seen_as_flicker(
    avatar: DrawnAvatar, said: Utterance, truth: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    noisy = [
        np.clip(face + rng.normal(0, 6, face.shape), 0, 255).astype(np.uint8) for face in truth
    ]
    report = picture_checks.compare(avatar, said, noisy)
    for region in ("flicker_outside_mouth_rectangle", "flicker_outside_what_the_truth_moves"):
        levels = report[region]
        assert isinstance(levels, dict)
        assert levels["generated"] > levels["source"] + 2
    assert report["mouth_psnr_db"] == pytest.approx(-20 * np.log10(6 / 255), abs=1)
