"""How the benchmark of turn detection counts errors."""

from __future__ import annotations

import numpy as np
import pytest

from localcluster.bench.turn_detection import Row, judge, table
from localcluster.speech_in_noise import Utterance

SPOKEN = Utterance("espeak", np.zeros(1), 1.5, 3.0)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([(1.6, 3.55)], {}),
        ([], {"missed": 1}),
        ([(0.2, 0.9)], {"missed": 1, "false": 1}),
        ([(0.2, 0.9), (1.6, 3.55)], {"false": 1}),
        ([(1.71, 3.55)], {"late_start": 1}),
        ([(1.6, 3.71)], {"late_stop": 1}),
        ([(1.6, float("inf"))], {"late_stop": 1}),
        ([(1.6, 2.2), (2.5, 3.55)], {"split": 1}),
    ],
)
def test_each_error_is_counted(turns: list[tuple[float, float]], expected: dict[str, int]) -> None:
    row = Row("none", None, "espeak")
    judge(row, SPOKEN, turns)
    names = ("missed", "false", "late_start", "late_stop", "split")
    assert {name: getattr(row, name) for name in names if getattr(row, name)} == expected
    assert row.utterances == 1


def test_the_table_adds_the_noises_of_a_kind() -> None:
    rows = [Row(noise, 20, "flite", 3, missed=1, audio_s=10.0) for noise in ("white", "fan")]
    assert "| steady, 20 dB | 6 | 2 | 0 | 0 | 0 | 0 | 0.00 % |" in table(rows)
