from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.status import conditions
from avatar_operator.core.status.refusals import FailedAction
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

STALLED, RECONCILING = Condition.STALLED, Condition.RECONCILING


def judged(scenario: Scenario, *failures: FailedAction) -> dict[Condition, Reason]:
    found = conditions.find(scenario.service, scenario.plan(), scenario.states, failures)
    both = (STALLED, RECONCILING)
    assert all(each.status for each in found if each.condition in both)
    return {each.condition: each.reason for each in found if each.condition in both}


def test_a_service_as_its_spec_says_has_neither(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    assert judged(scenario) == {}


def test_surplus_pods_are_not_waited_for(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    scenario.add("p1", make.state(1, draining=True))
    assert judged(scenario) == {}


def test_a_start_a_rollout_and_missing_gpus_are_reconciling(
    scenarios: Scenarios, make: Make
) -> None:
    assert judged(scenarios(replicas=1)) == {RECONCILING: Reason.PODS_STARTING}
    assert judged(scenarios(replicas=1, gpus=0)) == {RECONCILING: Reason.NO_GPU_NODE}
    rollout = scenarios(replicas=1)
    rollout.add("old", make.state(1), spec_hash="old")
    assert judged(rollout) == {RECONCILING: Reason.ROLLING_OUT}


def test_a_paused_service_has_neither(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.service = replace(scenario.service, paused=True)
    assert judged(scenario) == {}


def test_a_batch_that_fits_nowhere_is_stalled(scenarios: Scenarios) -> None:
    assert judged(scenarios(replicas=1, batchSize=64)) == {STALLED: Reason.NO_BATCH_FITS}


def test_a_halted_rollout_is_stalled_although_old_pods_serve(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    scenario.add("new", ready=False, restarts=2, trouble="exit code 1")
    assert judged(scenario) == {STALLED: Reason.ROLLOUT_HALTED}


@pytest.mark.parametrize(
    ("failure", "condition"),
    [
        (FailedAction(Reason.POD_REFUSED, "no", of_pod=True, needs_change=True), STALLED),
        (FailedAction(Reason.QUOTA_EXCEEDED, "no", of_pod=True), RECONCILING),
        (FailedAction(Reason.APPLY_FAILED, "the API server is down"), RECONCILING),
        (FailedAction(Reason.NOT_PERMITTED, "the Secret", needs_change=True), RECONCILING),
    ],
    ids=["needs a change", "may pass", "passes", "not of a pod"],
)
def test_a_refusal_is_stalled_if_waiting_does_not_help(
    scenarios: Scenarios, failure: FailedAction, condition: Condition
) -> None:
    assert judged(scenarios(replicas=1), failure) == {condition: failure.reason}


@pytest.mark.parametrize(
    ("trouble", "restarts", "condition"),
    [
        ("ErrImagePull: x", 0, RECONCILING),
        ("ImagePullBackOff: x", 0, STALLED),
        ("InvalidImageName: x", 0, STALLED),
        ("CrashLoopBackOff: exit code 1", 1, RECONCILING),
        ("CrashLoopBackOff: exit code 1", 2, STALLED),
    ],
)
def test_pods_that_cannot_start_are_stalled(
    scenarios: Scenarios, trouble: str, restarts: int, condition: Condition
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", ready=False, running=False, trouble=trouble, restarts=restarts)
    assert judged(scenario) == {condition: Reason.PODS_FAILING}
    scenario.service = replace(scenario.service, replicas=2)
    scenario.add("p1", ready=False, running=False, trouble="ContainerCreating")
    assert judged(scenario) == {RECONCILING: Reason.PODS_FAILING}
