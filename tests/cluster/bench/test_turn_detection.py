"""How the benchmark of turn detection calibrates, and how it counts errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from localcluster import speech_in_noise, voice_detectors
from localcluster.bench import turn_detection
from localcluster.speech_in_noise import Recording
from localcluster.turn_errors import Series, judge

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    errors = judge(turns, 1.5, 3.0, 0.5)
    counts = errors.describe()
    assert counts.pop("utterances") == 1
    assert {name: count for name, count in counts.items() if count} == expected
    assert errors.total == sum(expected.values())


class Level:
    """A detector that hears a constant noise with a probability of 0.32."""

    name = "level"
    thresholds: Sequence[float] = (0.3, 0.5, 0.7)

    def rates(self, pcm: bytes) -> list[float]:
        samples = np.frombuffer(pcm, "<i2")
        windows = samples[: len(samples) // 768 * 768].reshape(-1, 768)
        return [0.9 if np.abs(window).max() > 1000 else 0.32 for window in windows]


def recording(voice: str) -> Recording:
    tone = np.sin(np.arange(24_000) * 0.3)
    return Recording("espeak", voice, tone)


def test_the_threshold_is_the_one_with_the_fewest_errors() -> None:
    found = list(turn_detection.hear([Level()], [recording("en-us")], -25.0, "none", None))
    chosen, errors = turn_detection.choose_thresholds([Level()], found)
    assert chosen == {"level": 0.5}  # 0.7 makes no error either, and is farther from the default
    assert errors["level"]["0.3"] > errors["level"]["0.5"] == errors["level"]["0.7"] == 0


def test_the_calibration_and_the_report_have_no_voice_in_common() -> None:
    voices = {*speech_in_noise.ESPEAK_VOICES, *speech_in_noise.FLITE_VOICES, "cards", "librivox"}
    parts = {calibrates: set[str]() for calibrates in (True, False)}
    for voice in voices:
        parts[recording(voice).calibrates].add(voice)
    assert parts[True] == speech_in_noise.CALIBRATION
    assert parts[False] == {"en-gb", "de", "fr", "rms", "awb", "librivox"}


def test_the_table_adds_the_noises_of_a_kind() -> None:
    def row(noise: str) -> dict[str, Any]:
        series = Series("d", "flite", noise, 20, 1.5, 3.0, [0.1] * 150, 4.8, 0.0)
        (found,) = turn_detection.describe([series], {"d": 0.5})
        return found

    table = turn_detection.table([row("white"), row("fan")])
    assert "| steady, 20 dB | d, threshold 0.5 | all | 2 | 2 | 0 | 0 | 0 | 0 | 0.00 % |" in table


@pytest.mark.parametrize("step", [256, 480])
def test_the_steps_of_an_alternative_belong_to_the_window_in_which_they_end(step: int) -> None:
    steps = 10 * 512 // step
    rates = [float(number * step > 512) for number in range(1, steps + 1)]
    found = voice_detectors.by_window(rates, step)
    assert found[0] == 0.0
    assert set(found[1:]) == {1.0}
    assert len(found) == steps * step // 512
