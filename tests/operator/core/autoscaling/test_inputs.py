"""Tests of how scaling sees a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.autoscaling import inputs, limits, scaling
from avatar_operator.core.autoscaling.observation import Demand, Observation
from avatar_operator.core.resources.autoscaling import Autoscaling
from avatar_operator.core.status import conditions, service_status
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core.planning import planner

    Scenarios = Callable[..., Any]

AUTO = {"minReplicas": 1, "maxReplicas": 9, "freeSessions": {"min": 1, "percent": 0}}


def planned(scenario: Any, **context: Any) -> planner.Plan:
    """Plan a scenario with what scaling goes by."""
    scenario.context = inputs.ScalingContext(**context)
    plan: planner.Plan = scenario.plan()
    return plan


def test_a_given_number_of_pods_is_not_decided(scenarios: Scenarios) -> None:
    assert planned(scenarios(replicas=3)).decision is None


def test_sessions_and_callers_become_pods(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    plan = planned(scenario, demand=Demand(waiting=1, gateways=1))
    assert plan.desired == 2
    assert [type(action).__name__ for action in plan.actions] == ["CreatePod"]


def test_free_gpus_bound_the_decision_and_are_named(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=1, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    plan = planned(scenario)
    assert plan.decision is not None
    assert (plan.desired, plan.decision.limit) == (1, limits.Limit.FREE_GPUS)
    assert plan.missing == 0


def test_a_pod_that_has_just_become_ready_is_not_doubled(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0")  # its state stream is not connected yet
    assert planned(scenario).desired == 1


def test_a_pod_that_was_never_heard_of_stops_the_way_down(scenarios: Scenarios) -> None:
    scenario = scenarios(autoscaling={**AUTO, "scaleDownAfterSeconds": 0})
    scenario.add("p0", scenario.make.state(0))
    scenario.add("p1")
    first = planned(scenario)
    assert first.decision is not None
    later = planned(scenario, history=first.decision.history, at=500.0)
    assert later.decision is not None
    assert (later.desired, later.decision.reason) == (2, scaling.DecisionReason.STATE_STALE)


@pytest.mark.parametrize("pressure", [{"vram_ratio": 0.99}, {"deadline_miss_ratio": 0.5}])
def test_pressure_on_a_pod_makes_the_service_grow(
    scenarios: Scenarios, pressure: dict[str, float]
) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(3, capacity=4))
    assert planned(scenario).desired == 1
    scenario.states["uid-p0"] = scenario.make.state(3, capacity=4, **pressure)
    assert planned(scenario).desired > 1


def test_a_service_that_waits_for_its_class_counts_only_that_one(scenarios: Scenarios) -> None:
    placement = {"gpuClasses": ["rtx-4090", "other"], "whenFull": "wait"}
    scenario = scenarios(gpus=1, autoscaling=AUTO, placement=placement)
    scenario.profiles.append(
        scenario.make.profile(
            "other", match={"products": ["Other"], "memoryMiB": {"min": 20000, "max": 30000}}
        )
    )
    scenario.nodes.append(
        scenario.make.node(
            "n2", labels={"nvidia.com/gpu.product": "Other", "nvidia.com/gpu.memory": "24564"}
        )
    )
    scenario.add("p0", scenario.make.state(2))
    assert planned(scenario).desired == 1


def test_a_change_is_told_with_its_numbers(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    plan = planned(scenario, demand=Demand(waiting=1, gateways=1))
    findings = conditions.find(scenario.service, plan, scenario.states)
    written = service_status.build(scenario.service, plan, scenario.states, findings, {}, 0.0)
    decisions: Any = written["decisions"]
    (decision,) = decisions
    assert (decision["from"], decision["to"], decision["reason"]) == (0, 2, "Demand")
    assert decision["inputs"] == {
        "pods": 1, "sessions": 2, "freeGPUs": 3, "waiting": 1, "headroom": 1,
        "arrivalsPerSecond": 0.0, "startSeconds": 30.0, "capacity": 2, "wanted": 2, "silent": 0,
        "minReplicas": 1,
    }  # fmt: skip
    (notice, *_) = service_status.notices([], findings, {}, plan)
    assert notice.reason is Reason.SCALING_UP
    assert notice.message == "0 to 2 pods (Demand): 2 sessions, 1 waiting, headroom 1, 2 slots"
    again = service_status.build(scenario.service, plan, scenario.states, findings, written, 60.0)
    assert again == written
    assert all(
        n.reason is not Reason.SCALING_UP for n in service_status.notices([], findings, again, plan)
    )


@pytest.mark.parametrize(
    ("gpus", "most", "expected"),
    [
        (4, 9, (False, Reason.WITHIN_BOUNDS, "within all limits")),
        (4, 1, (True, Reason.MAX_REPLICAS, "wants 2 pods, has 1; maxReplicas is 1")),
        (1, 9, (True, Reason.NO_FREE_GPU, "wants 2 pods, has 1; the cluster has")),
    ],
    ids=["enough", "max", "gpus"],
)
def test_the_binding_bound_is_a_condition(
    scenarios: Scenarios, gpus: int, most: int, expected: tuple[bool, Reason, str]
) -> None:
    scenario = scenarios(gpus=gpus, autoscaling={**AUTO, "maxReplicas": most})
    scenario.add("p0", scenario.make.state(2))
    plan = planned(scenario)
    found = conditions.find(scenario.service, plan, scenario.states)
    (limited,) = (f for f in found if f.condition is Condition.SCALING_LIMITED)
    status_, reason, words = expected
    assert (limited.status, limited.reason) == (status_, reason)
    assert words in limited.message
    assert service_status.lacks_gpus(plan) == (reason is Reason.NO_FREE_GPU)


def test_when_nobody_is_heard_of_the_condition_says_so(scenarios: Scenarios) -> None:
    scenario = scenarios(autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2, age_s=6.0))
    plan = planned(scenario, demand=Demand(gateways=1, silent=1))
    found = conditions.find(scenario.service, plan, scenario.states)
    (fresh,) = (f for f in found if f.condition is Condition.STATE_FRESH)
    assert (fresh.status, fresh.reason) == (False, Reason.STATE_MISSING)
    assert "scaling is paused" in fresh.message


def test_a_given_number_has_no_bound_to_tell_of(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    found = conditions.find(scenario.service, planned(scenario), {})
    assert all(f.condition is not Condition.SCALING_LIMITED for f in found)


def test_gpus_that_are_not_there_bound_nothing_where_nodes_may_come(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=1, autoscaling=AUTO, placement={"whenFull": "createPending"})
    scenario.add("p0", scenario.make.state(2))
    plan = planned(scenario, demand=Demand(waiting=5, gateways=1))
    assert plan.desired > 2
    assert plan.missing == 0
    assert plan.decision is not None
    assert plan.decision.limit is not limits.Limit.FREE_GPUS


def test_a_decision_counts_by_the_monotonic_clock_and_schedules_by_the_wall_clock() -> None:
    policy = Autoscaling(1, 4)
    observation = Observation([], [], Demand(gateways=1))
    result = inputs.decide(inputs.ScalingInputs(policy, observation, None, at=5.0, wall=2e9))
    assert result.decision.history.recommendations.since == 5.0
