"""The states of a turn."""

from __future__ import annotations

from itertools import product

import pytest

from avatar_runtime.errors import IllegalEvent
from avatar_runtime.protocol.turn import Phase, Step, advance

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
