"""Tests of what pods are worth."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_operator.core.autoscaling import capacity


@pytest.mark.parametrize(
    ("seen", "load_factor"),
    [
        ({}, 1.0),
        ({"vram_ratio": 0.9}, 1.0),
        ({"vram_ratio": 0.99}, 1.1),
        ({"deadline_miss_ratio": 0.03}, 3.0),
        ({"frame_p95_ms": 300.0}, 1.5),
        ({"batch_share": 0.5}, 2.0),
        ({"batch_share": 0.0}, 4.0),
        ({"deadline_miss_ratio": 1.0}, 4.0),
    ],
)
def test_strain_is_the_worst_miss_of_an_objective(
    seen: dict[str, float], load_factor: float
) -> None:
    calm: dict[str, Any] = {"vram_ratio": 0.5, "deadline_miss_ratio": 0.0, "frame_p95_ms": None}
    assert capacity.load_factor(**{**calm, "latency_budget_ms": 200.0, **seen}) == pytest.approx(
        load_factor
    )


@pytest.mark.parametrize(
    ("starts_s", "mean_s", "variance"),
    [((), 30.0, 0.0), ((4.0, 9.0), 9.0, 0.0), ((4.0, 6.0, 4.0, 6.0, 5.0), 5.0, 1.0)],
    ids=["none yet", "few", "enough"],
)
def test_of_few_starts_the_longest_is_believed(
    starts_s: tuple[float, ...], mean_s: float, variance: float
) -> None:
    start = capacity.estimate_start(starts_s)
    assert start.mean_s == mean_s
    assert start.variance == pytest.approx(variance)
