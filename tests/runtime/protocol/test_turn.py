"""The states of a turn."""

from __future__ import annotations

from itertools import product

import pytest
from tests.runtime.protocol.conftest import FPS, FakeUtterance

from avatar_runtime.errors import IllegalEvent
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.turn import Phase, Step, Turn, advance

LEGAL = {
    (Phase.OPEN, Step.APPEND): Phase.OPEN,
    (Phase.OPEN, Step.COMMIT): Phase.WAITING,
    (Phase.OPEN, Step.START): Phase.LIVE,
    (Phase.OPEN, Step.CLEAR): Phase.DISCARDED,
    (Phase.WAITING, Step.START): Phase.ENDING,
    (Phase.WAITING, Step.CLEAR): Phase.DISCARDED,
    (Phase.LIVE, Step.APPEND): Phase.LIVE,
    (Phase.LIVE, Step.COMMIT): Phase.ENDING,
    (Phase.LIVE, Step.CANCEL): Phase.CANCELLED,
    (Phase.LIVE, Step.INTERRUPT): Phase.INTERRUPTED,
    (Phase.LIVE, Step.FAIL): Phase.FAILED,
    (Phase.LIVE, Step.ABORT): Phase.ABORTED,
    (Phase.ENDING, Step.FINISH): Phase.COMPLETED,
    (Phase.ENDING, Step.CANCEL): Phase.CANCELLED,
    (Phase.ENDING, Step.INTERRUPT): Phase.INTERRUPTED,
    (Phase.ENDING, Step.FAIL): Phase.FAILED,
    (Phase.ENDING, Step.ABORT): Phase.ABORTED,
}


@pytest.mark.parametrize(("phase", "step"), list(product(Phase, Step)), ids=lambda part: part.name)
def test_the_table_allows_exactly_the_legal_steps(phase: Phase, step: Step) -> None:
    if (phase, step) in LEGAL:
        assert advance(phase, step) is LEGAL[phase, step]
    else:
        with pytest.raises(IllegalEvent, match=f"while the turn is {phase.value}"):
            advance(phase, step)


class CountingUtterance(FakeUtterance):
    """Counts the audio that it got, seconds."""

    seconds = 0.0

    def append(self, data: bytes) -> None:
        super().append(data)
        self.seconds += len(data) / (2 * PCM_24K.rate)


def test_the_windows_of_a_burst_are_made_as_its_frames_are_requested() -> None:
    utterance = CountingUtterance(PCM_24K)
    turn = Turn(utterance, PCM_24K, FPS)
    turn.append(bytes(60 * 2 * PCM_24K.rate), 1000.0)
    assert utterance.seconds <= 0.8
    turn.start(0, 1000.0)
    for frame in range(FPS):
        turn.request_next(1000.0)
        assert utterance.seconds <= 0.8 + (frame + 1) / FPS
    assert turn.next_window is not None


def test_every_frame_of_a_burst_is_made() -> None:
    turn = Turn(FakeUtterance(PCM_24K), PCM_24K, FPS)
    turn.append(bytes(3 * 2 * PCM_24K.rate), 1000.0)
    turn.commit(1000.0)
    turn.start(0, 1000.0)
    frames = 0
    while turn.next_window is not None:
        turn.request_next(1000.0)
        frames += 1
    assert frames == 3 * FPS
