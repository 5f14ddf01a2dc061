"""The gate that tells speech from silence."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_runtime.audio import energy


def _frame(dbfs: float) -> np.ndarray:
    return np.full(640, 10 ** (dbfs / 20), np.float32)


@pytest.mark.parametrize(
    ("levels", "silent"),
    [
        pytest.param([-90, -48, -44], [True, True, False], id="opens only at the upper level"),
        pytest.param([-20, -48, -48], [False, False, False], id="between the levels it stays open"),
        pytest.param([-20, -60, -60, -60], [False, False, False, True], id="closes after the hold"),
        pytest.param(
            [-20, -60, -60, -48, -60, -60, -60],
            [False, False, False, False, False, False, True],
            id="a louder frame starts the hold again",
        ),
        pytest.param([-20, -60, -60, -60, -48], [False] * 3 + [True] * 2, id="closed stays closed"),
    ],
)
def test_the_gate_follows_level_and_time(levels: list[float], silent: list[bool]) -> None:
    gate = energy.Gate()

    assert [gate.is_silent(_frame(level)) for level in levels] == silent


def test_a_frame_without_samples_is_silent() -> None:
    assert energy.Gate().is_silent(np.zeros(0, np.float32))
