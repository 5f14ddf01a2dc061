"""The measures, on faces and signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_training.face import draw_crop
from avatar_training.identities import IDENTITIES
from avatar_training.measuring import OpeningGauge, best_lag, correlation
from avatar_training.posing import Mouth, Pose


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_the_lag_is_positive_if_the_picture_is_late(lag: int) -> None:
    true = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    assert best_lag(np.roll(true, lag), true) == lag


def test_the_correlation_with_a_constant_is_zero() -> None:
    rising = np.arange(9, dtype=np.float32)
    assert correlation(np.ones(9, np.float32), rising) == 0
    assert correlation(2 * rising + 1, rising) == pytest.approx(1)


@pytest.mark.slow
def test_the_gauge_reads_unseen_openings_in_spite_of_the_other_parameters() -> None:
    rng = np.random.default_rng(1)
    mouths = [Mouth(*(float(v) for v in rng.random(5))) for _ in range(180)]
    poses = [Pose(dx=float(rng.uniform(-2, 2)), blink=float(rng.random())) for _ in mouths]
    faces = [
        draw_crop(IDENTITIES["ben"], pose, mouth, 96)
        for pose, mouth in zip(poses, mouths, strict=True)
    ]
    true = np.array([mouth.open for mouth in mouths], np.float32)
    gauge = OpeningGauge.fit(faces[:130], true[:130])
    assert correlation(gauge.read(faces[130:]), true[130:]) > 0.9
    assert correlation(gauge.read(faces[130:]), np.roll(true[130:], 7)) < 0.4
