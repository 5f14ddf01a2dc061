from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar_operator.core.planning import planner
from avatar_operator.core.status import conditions, service_status
from avatar_operator.core.status.service_status import Notice
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios


def build(scenario: Scenario, previous: Any = None, now: float = 100.0) -> Any:
    plan = scenario.plan()
    findings = conditions.find(scenario.service, plan, scenario.states)
    return service_status.build(
        scenario.service, plan, scenario.states, findings, previous or {}, now
    )


def test_the_status_counts_what_is_observed(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1))
    scenario.add("p1", make.state(2, draining=True), spec_hash="old", batch_size=4)
    scenario.add("p2", make.state(1), terminating=True)
    document = build(scenario)
    for key, value in {
        "observedGeneration": 3,
        "selector": "avatar.musetalk.io/service=concierge",
        "replicas": 3,
        "readyReplicas": 1,
        "desiredReplicas": 2,
        "sessions": 4,
        "capacity": 2,
        "freeSessions": 1,
        "state": "NoFreeGPU",
        "gpu": "rtx-4090",
        "batch": "4/8",
    }.items():
        assert document[key] == value, key
    assert document["pools"] == [
        {
            "gpuClass": "rtx-4090",
            "batchSize": 8,
            "sessionsPerPod": 2,
            "replicas": 2,
            "limitedBy": "knee",
            "reason": ("batch 8 reaches 95% of the best frames/s; 74.3 frames/s carry 2 sessions"),
        }
    ]


def test_an_unchanged_cluster_gives_an_equal_status_later(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    first = build(scenario, now=100.0)
    scenario.states["uid-p0"] = make.state(1, age_s=0.9)
    assert build(scenario, first, now=5000.0) == first


def test_a_transition_time_moves_only_with_its_status(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    before = {each["type"]: each for each in build(scenario, now=100.0)["conditions"]}
    scenario.add("p0", make.state(1))
    old = build(scenarios(replicas=1), now=100.0)
    after = {each["type"]: each for each in build(scenario, old, now=200.0)["conditions"]}
    assert before["Ready"]["lastTransitionTime"] == "1970-01-01T00:01:40Z"
    assert after["Ready"]["lastTransitionTime"] == "1970-01-01T00:03:20Z"
    assert after["Degraded"]["lastTransitionTime"] == "1970-01-01T00:01:40Z"
    assert after["Ready"]["observedGeneration"] == 3


def test_only_changes_of_the_number_wanted_are_decisions(scenarios: Scenarios) -> None:
    first = build(scenarios(replicas=2), now=1.0)
    (decision,) = first["decisions"]
    assert decision == {
        "time": "1970-01-01T00:00:01Z",
        "from": 0,
        "to": 2,
        "reason": "ScalingUp",
        "inputs": {"pods": 0, "sessions": 0, "freeGPUs": 2},
    }
    assert build(scenarios(replicas=2), first)["decisions"] == [decision]
    down = build(scenarios(replicas=1), first)["decisions"]
    assert (down[0]["from"], down[0]["to"], down[0]["reason"]) == (2, 1, "ScalingDown")
    assert down[1:] == [decision]


def test_the_last_ten_decisions_are_kept(scenarios: Scenarios) -> None:
    document: Any = {}
    for replicas in [1, 2] * 8:
        document = build(scenarios(replicas=replicas), document)
    assert len(document["decisions"]) == 10


def test_a_class_that_cannot_serve_has_batch_size_0(scenarios: Scenarios) -> None:
    (pool,) = build(scenarios(replicas=1, batchSize=64))["pools"]
    assert (pool["batchSize"], pool["sessionsPerPod"]) == (0, 0)
    assert "limitedBy" not in pool


def test_an_invalid_spec_keeps_what_was_known(scenarios: Scenarios) -> None:
    findings = conditions.invalid("spec.fps is 7")
    document: Any = service_status.build_invalid(4, findings, {"sessions": 3}, 100.0)
    assert (document["sessions"], document["observedGeneration"]) == (3, 4)
    assert document["state"] == "InvalidSpec"
    assert document["conditions"][0]["message"] == "spec.fps is 7"


def test_actions_and_changes_of_readiness_are_told(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.has_secret = False
    plan = scenario.plan()
    findings = conditions.find(scenario.service, plan, {})
    reported = service_status.notices(plan.actions, findings, {})
    assert [(notice.reason, notice.warning) for notice in reported] == [
        (Reason.POD_CREATED, False),
        (Reason.PODS_STARTING, False),  # a normal start is no reason for a warning
    ]
    assert reported[0].message.startswith(
        f"created pod concierge-{scenario.hash[:5]}-0 on rtx-4090: "
    )
    assert service_status.notices((), findings, build(scenario)) == ()


def notices_of(scenario: Scenario, previous: Any = None) -> list[tuple[Reason, bool]]:
    findings = conditions.find(scenario.service, scenario.plan(), scenario.states)
    reported = service_status.notices((), findings, previous or {})
    return [(notice.reason, notice.warning) for notice in reported]


def test_only_what_is_wrong_is_a_warning(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    assert notices_of(scenario) == [(Reason.PODS_STARTING, False)]
    scenario.add("p0", ready=False, trouble="ErrImagePull")
    # Degraded has the reason of Ready, so one Event is enough.
    assert notices_of(scenario) == [(Reason.PODS_FAILING, True)]
    assert notices_of(scenarios(replicas=1, gpus=0)) == [(Reason.NO_GPU_NODE, True)]
    assert notices_of(scenarios(replicas=0)) == [(Reason.SCALED_TO_ZERO, False)]


def test_a_taken_name_has_its_own_event_and_none_for_the_condition(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    taken = ["Secret x-control does not belong to this AvatarService; another name is used"]
    findings = conditions.find(scenario.service, scenario.plan(), scenario.states, taken=taken)
    (degraded,) = (each for each in findings if each.condition is Condition.DEGRADED)
    assert (degraded.status, degraded.reason) == (True, Reason.NAME_TAKEN)
    reported = [*service_status.notices((), findings, {}), *service_status.name_notices(taken, ())]
    assert [notice.reason for notice in reported] == [Reason.SERVING, Reason.NAME_TAKEN]


def test_a_lost_node_is_told_once_although_another_pod_serves(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1), node="gone")
    scenario.add("p1", make.state())
    assert notices_of(scenario) == [(Reason.SERVING, False), (Reason.NODE_LOST, True)]
    assert notices_of(scenario, build(scenario)) == []


def test_pods_that_are_created_together_are_told_together(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.prove()
    (reported,) = service_status.notices(scenario.plan().actions, (), {})
    names = f"concierge-{scenario.hash[:5]}-0, concierge-{scenario.hash[:5]}-1"
    assert reported.message.startswith(f"created pods {names} on rtx-4090: 0 of 2 pods exist")


def test_every_way_of_a_pod_is_told() -> None:
    because = Reason.SCALING_DOWN
    reported = service_status.notices(
        (
            planner.DrainPod("p", "u", "c", because, "a"),
            planner.UndrainPod("p", "u", "c", "b"),
            planner.DeletePod("p", "u", "7", "c", because, "d"),
        ),
        (),
        {},
    )
    assert reported == (
        Notice(Reason.POD_DRAINING, "draining pod p (ScalingDown): a"),
        Notice(Reason.POD_RESUMED, "resumed pod p: b"),
        Notice(Reason.POD_DELETED, "deleted pod p (ScalingDown): d"),
    )


def test_a_status_presses_only_with_another_story_than_the_last(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1))
    first = build(scenario)
    scenario.states["uid-p0"] = make.state(2)
    numbers = build(scenario, first)
    assert numbers != first
    assert not service_status.is_urgent(first, numbers)
    scenario.add("p1", make.state(1))
    ready = build(scenario, first)
    assert ready["state"] != first["state"]
    assert service_status.is_urgent(first, ready)
    assert service_status.is_urgent({}, first)
    assert service_status.is_urgent(first, {**first, "observedGeneration": 4})
