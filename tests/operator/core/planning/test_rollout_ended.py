from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator.core.planning import rollout
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make


def test_the_latest_ended_pod_says_why_a_rollout_halts(make: Make) -> None:
    old = [make.pod("old")]
    ended = [make.pod(f"p{number}", trouble=f"cause {number}") for number in range(9)]
    first = next(
        count
        for count in range(10)
        if rollout.compare([], ended[:count], old, {}, rollout.Limits(), 0.0)
    )
    assert first == rollout.MAX_FAILURES
    halt = rollout.compare([], ended, old, {}, rollout.Limits(), 0.0)
    assert halt == rollout.Halt(Reason.NEW_PODS_FAILING, "new pods are failing: 9 ended: cause 8")
    silent = [*ended[:8], make.pod("last", trouble="", phase="Succeeded")]
    halt = rollout.compare([], silent, old, {}, rollout.Limits(), 0.0)
    assert halt is not None
    assert halt.message == "new pods are failing: 9 ended: Succeeded"
    assert rollout.compare([], ended, [], {}, rollout.Limits(), 0.0) is None
