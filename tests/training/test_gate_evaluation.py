"""The figures of the voice gate in docs/engine.md, on eight voices of two synthesizers."""

from __future__ import annotations

import pytest

from avatar_training import gate_evaluation

STEADY = ("DC of 200/32768", "hum 50 Hz", "hum 60 Hz", "white noise at -46", "pink noise at -46")


@pytest.mark.slow
@pytest.mark.tools
def test_the_gate_draws_speech_and_little_of_steady_noise() -> None:
    rows = gate_evaluation.evaluate()

    assert len(rows) == 20
    for name, row in rows.items():
        counts = {key: [int(n) for n in text.split(" of ")] for key, text in row.items()}
        shares = {key: count / total for key, (count, total) in counts.items()}
        assert shares["missed by gate"] <= 0.01, name
        if "clean" in name:
            assert shares["drawn by energy"] == shares["missed by energy"] == 0
            assert shares["drawn by gate"] <= 0.03
        if any(noise in name for noise in STEADY):
            assert shares["drawn by gate"] <= 0.07, name
            assert shares["drawn by energy"] == 1, name
