from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.planning import rollout
from avatar_operator.core.planning.planner import CreatePod, DrainPod, UndrainPod
from avatar_operator.core.status import conditions, service_status
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

NOW = 10_000.0


def p95(scenario: Scenario, new_ms: float | None, old_ms: float | None) -> None:
    make = scenario.make
    scenario.add("old", make.state(1, first_frame_p95_ms=old_ms), spec_hash="old")
    scenario.add("new", make.state(1, first_frame_p95_ms=new_ms))


@pytest.mark.parametrize(("desired", "most"), [(1, 1), (2, 1), (4, 1), (5, 2), (20, 5)])
def test_the_surge_is_a_quarter_and_at_least_one(desired: int, most: int) -> None:
    assert rollout.surge(desired) == most


def test_new_pods_come_a_surge_at_a_time(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=8, gpus=16)
    for number in range(8):
        scenario.add(f"old-{number}", make.state(1), spec_hash="old")
    scenario.prove()
    assert [type(each) for each in scenario.plan().actions] == [CreatePod, CreatePod]


def test_old_pods_that_do_not_work_leave_no_room_to_wait_for(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=4, gpus=8)
    for number in range(4):
        scenario.add(f"old-{number}", spec_hash="old", ready=False)
    scenario.prove()
    creates = [each for each in scenario.plan().actions if isinstance(each, CreatePod)]
    assert len(creates) == 4


@pytest.mark.parametrize(
    ("new_ms", "old_ms", "halts"),
    [
        (None, 100.0, False),
        (500.0, None, False),
        (199.0, 100.0, False),
        (450.0, 200.0, True),
        (90.0, 40.0, False),  # more than twice as much, and still nothing that anyone sees
        (900.0, 500.0, False),
    ],
)
def test_new_pods_that_answer_much_later_halt_the_rollout(
    scenarios: Scenarios, new_ms: float | None, old_ms: float | None, halts: bool
) -> None:
    scenario = scenarios(replicas=1)
    p95(scenario, new_ms, old_ms)
    halted = scenario.plan().halted
    assert (halted is not None) == halts
    assert [type(each) for each in scenario.plan().actions] == ([] if halts else [DrainPod])


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        pytest.param({"created_at": NOW - 601}, "new is not ready after 600 s: x", id="too long"),
        pytest.param({"restarts": 2}, "new was restarted 2 times: x", id="crashes"),
        pytest.param({"created_at": NOW - 599}, "", id="may still come"),
        pytest.param({"created_at": 0.0, "node": ""}, "", id="waits for a node"),
        pytest.param({"created_at": 0.0, "ready": True}, "", id="works"),
    ],
)
def test_new_pods_that_do_not_work_halt_the_rollout(
    scenarios: Scenarios, make: Make, pod: dict[str, Any], said: str
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    fields = {"created_at": NOW, "ready": False, "trouble": "x", **pod}
    scenario.add("new", **fields)
    halted = scenario.plan().halted
    assert (halted.message if halted else "") == (f"new pods are failing: {said}" if said else "")


def test_new_pods_that_end_again_and_again_halt_the_rollout(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    for number in range(3):
        scenario.add(f"new-{number}", phase="Failed", failed_at=NOW, trouble="OOMKilled")
    halted = scenario.plan().halted
    assert halted is not None
    assert halted.message == "new pods are failing: 3 ended: OOMKilled"


def test_a_halt_is_said_and_the_old_pods_take_sessions_again(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1, draining=True), spec_hash="old")
    scenario.add("new", make.state(1), ready=False, restarts=3, trouble="exit code 1: no model")
    plan = scenario.plan()
    assert [type(each) for each in plan.actions] == [UndrainPod]
    found = {f.condition: f for f in conditions.find(scenario.service, plan, scenario.states)}
    progressing, degraded = found[Condition.PROGRESSING], found[Condition.DEGRADED]
    assert (progressing.status, progressing.reason) == (False, Reason.ROLLOUT_HALTED)
    assert (degraded.status, degraded.reason) == (True, Reason.NEW_PODS_FAILING)
    assert "exit code 1: no model" in degraded.message


def test_slowness_is_remembered_for_the_spec_that_was_slow(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    p95(scenario, 500.0, 100.0)
    plan = scenario.plan()
    findings = conditions.find(scenario.service, plan, scenario.states)
    written = service_status.build(scenario.service, plan, scenario.states, findings, {}, NOW)
    generation = scenario.service.generation
    scenario.halted = rollout.read_halt(written, generation)
    assert scenario.halted == plan.halted
    for uid, state in scenario.states.items():  # the sessions ended, nothing can be measured
        scenario.states[uid] = scenario.make.state(0, ready=state.ready)
    assert scenario.plan().halted == plan.halted
    assert rollout.read_halt(written, generation + 1) is None
    assert rollout.read_halt({}, generation) is None


def test_the_old_spec_applied_again_takes_the_old_pods_back_at_once(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1, draining=True))
    scenario.add("new", make.state(1), spec_hash="newer")
    assert scenario.actions() == [("UndrainPod", "old"), ("DrainPod", "new")]


def test_a_recorded_halt_ends_with_the_last_pod_of_the_earlier_spec(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.halted = rollout.Halt(Reason.NEW_PODS_SLOWER, "slow")
    scenario.add("new", make.state(1))
    assert scenario.plan().halted is None
    scenario.add("old", make.state(1), spec_hash="old")
    assert scenario.plan().halted == scenario.halted
