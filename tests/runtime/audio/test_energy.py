"""The gate that tells speech from silence, and the mouth that follows it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avatar_runtime.audio import energy

HOLD = energy.HOLD_STEPS
LOUD, BREATH, QUIET = -30.0, -53.0, -60.0
OWN = 2  # steps of a frame at 25 a second


_TONE = np.sqrt(2) * np.sin(2 * np.pi * 1000 * np.arange(1, 321) / 16_000)  # a power of 1


def _step(dbfs: float) -> np.ndarray:
    return np.asarray(10 ** (dbfs / 20) * _TONE, np.float32)


@pytest.mark.parametrize(
    ("levels", "speech"),
    [
        pytest.param([QUIET, BREATH, LOUD], "..s", id="opens only at the level"),
        pytest.param([LOUD] + [BREATH] * 9, "s" * 10, id="a breath keeps it open"),
        pytest.param([LOUD] + [QUIET] * (HOLD + 1), "s" * (HOLD + 1) + ".", id="closes after hold"),
        pytest.param(
            [LOUD, *[QUIET] * HOLD, BREATH, *[QUIET] * (HOLD + 1)],
            "s" * (2 * HOLD + 2) + ".",
            id="a breath starts the hold again",
        ),
        pytest.param([LOUD] + [-55.9] * 9, "s" * 10, id="6 dB below the level keep it open"),
        pytest.param([LOUD] + [-56.1] * (HOLD + 1), "s" * (HOLD + 1) + ".", id="more do not"),
        pytest.param(
            [LOUD] + [QUIET] * (HOLD + 1) + [BREATH], "s" * (HOLD + 1) + "..", id="closed"
        ),
    ],
)
def test_the_gate_follows_level_and_time(levels: list[float], speech: str) -> None:
    gate = energy.VoiceActivityGate(energy.SPEECH_DBFS)

    assert "".join("s" if gate.is_speech(_step(level)) else "." for level in levels) == speech


def test_a_step_without_samples_is_silent() -> None:
    assert not energy.VoiceActivityGate(-50).is_speech(np.zeros(0, np.float32))


def _shares(levels: list[float], own: int = OWN) -> list[float]:
    """Return the mouth of every whole frame, as an utterance asks for it."""
    mouth = energy.MouthEnvelope(energy.VoiceActivityGate(energy.SPEECH_DBFS))
    padded = [*levels, *[-120.0] * energy.AHEAD_STEPS]
    shares = []
    for first in range(0, len(levels) - own + 1, own):
        while mouth.steps_seen < first + energy.AHEAD_STEPS:
            mouth.push(_step(padded[mouth.steps_seen]))
        shares.append(mouth.opacity(first, own))
    return shares


def test_the_mouth_opens_before_speech_and_closes_in_two_frames_after_it() -> None:
    levels = [QUIET] * 8 + [LOUD] * 4 + [QUIET] * (HOLD + 8)

    shares = [round(share, 2) for share in _shares(levels)]

    assert shares == [0, 0, 0.33, 0.67, 1, 1, *[1] * (HOLD // OWN), 0.67, 0.33, 0, 0]


def test_a_pause_shorter_than_both_ramps_does_not_close_the_mouth() -> None:
    levels = [LOUD] * 4 + [QUIET] * (HOLD + 4) + [LOUD] * 4

    assert min(_shares(levels)) == pytest.approx(2 / 3)


sounds = st.lists(
    st.tuples(st.sampled_from([LOUD, BREATH, QUIET]), st.integers(1, 20)), max_size=12
).map(lambda runs: [level for level, steps in runs for _ in range(steps)])


@given(levels=sounds, own=st.sampled_from([2, 3, 5]))
@example(levels=[LOUD], own=2)
@example(levels=[LOUD] * 93 + [QUIET] * 14, own=2)  # a steady tone that ends
def test_no_speech_is_cut_and_long_silence_is_idle(levels: list[float], own: int) -> None:
    for frame, share in enumerate(_shares(levels, own)):
        first = frame * own
        if LOUD in levels[first : first + own]:
            assert share == 1
        if LOUD in levels[first : first + energy.AHEAD_STEPS]:
            assert share > 0
        around = levels[max(0, first - HOLD - 4) : first + energy.AHEAD_STEPS]
        if set(around) <= {QUIET} and first >= HOLD + 4:
            assert share == 0


@given(levels=sounds)
def test_the_mouth_never_jumps_more_than_a_third_before_or_after_silence(
    levels: list[float],
) -> None:
    shares = _shares([QUIET] * 6 + levels)
    steps = [abs(b - a) for a, b in itertools.pairwise(shares)]
    assert max(steps, default=0) <= 1 / 3 + 1e-9
