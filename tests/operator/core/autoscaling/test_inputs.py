"""Tests of how scaling sees a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.autoscaling import inputs, limits, scaling
from avatar_operator.core.status import conditions, service_status
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core.planning import planner

    Scenes = Callable[..., Any]

AUTO = {"minReplicas": 1, "maxReplicas": 9, "freeSessions": {"min": 1, "percent": 0}}


def planned(scene: Any, **sight: Any) -> planner.Plan:
    """Plan a scene with what scaling goes by."""
    scene.sight = inputs.Scene(**sight)
    plan: planner.Plan = scene.plan()
    return plan


def test_a_given_number_of_pods_is_not_decided(scenes: Scenes) -> None:
    assert planned(scenes(replicas=3)).decision is None


def test_sessions_and_callers_become_pods(scenes: Scenes) -> None:
    scene = scenes(gpus=4, autoscaling=AUTO)
    scene.add("p0", scene.make.state(2))
    plan = planned(scene, demand=scaling.Demand(waiting=1, gateways=1))
    assert plan.desired == 2
    assert [type(action).__name__ for action in plan.actions] == ["CreatePod"]


def test_free_gpus_bound_the_decision_and_are_named(scenes: Scenes) -> None:
    scene = scenes(gpus=1, autoscaling=AUTO)
    scene.add("p0", scene.make.state(2))
    plan = planned(scene)
    assert plan.decision is not None
    assert (plan.desired, plan.decision.limit) == (1, limits.Limit.FREE_GPUS)
    assert plan.missing == 0


def test_a_pod_that_has_just_become_ready_is_not_doubled(scenes: Scenes) -> None:
    scene = scenes(gpus=4, autoscaling=AUTO)
    scene.add("p0")  # its state stream is not connected yet
    assert planned(scene).desired == 1


def test_a_pod_that_was_never_heard_of_stops_the_way_down(scenes: Scenes) -> None:
    scene = scenes(autoscaling={**AUTO, "scaleDownAfterSeconds": 0})
    scene.add("p0", scene.make.state(0))
    scene.add("p1")
    first = planned(scene)
    assert first.decision is not None
    later = planned(scene, history=first.decision.history, at=500.0)
    assert later.decision is not None
    assert (later.desired, later.decision.why) == (2, scaling.Why.STATE_STALE)


@pytest.mark.parametrize("pressure", [{"vram_ratio": 0.99}, {"deadline_miss_ratio": 0.5}])
def test_pressure_on_a_pod_makes_the_service_grow(
    scenes: Scenes, pressure: dict[str, float]
) -> None:
    scene = scenes(gpus=4, autoscaling=AUTO)
    scene.add("p0", scene.make.state(3, capacity=4))
    assert planned(scene).desired == 1
    scene.states["uid-p0"] = scene.make.state(3, capacity=4, **pressure)
    assert planned(scene).desired > 1


def test_a_service_that_waits_for_its_class_counts_only_that_one(scenes: Scenes) -> None:
    placement = {"gpuClasses": ["rtx-4090", "other"], "whenFull": "wait"}
    scene = scenes(gpus=1, autoscaling=AUTO, placement=placement)
    scene.profiles.append(
        scene.make.profile(
            "other", match={"products": ["Other"], "memoryMiB": {"min": 20000, "max": 30000}}
        )
    )
    scene.nodes.append(
        scene.make.node(
            "n2", labels={"nvidia.com/gpu.product": "Other", "nvidia.com/gpu.memory": "24564"}
        )
    )
    scene.add("p0", scene.make.state(2))
    assert planned(scene).desired == 1


def test_a_change_is_told_with_its_numbers(scenes: Scenes) -> None:
    scene = scenes(gpus=4, autoscaling=AUTO)
    scene.add("p0", scene.make.state(2))
    plan = planned(scene, demand=scaling.Demand(waiting=1, gateways=1))
    findings = conditions.find(scene.service, plan, scene.states)
    written = service_status.build(scene.service, plan, scene.states, findings, {}, 0.0)
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
    again = service_status.build(scene.service, plan, scene.states, findings, written, 60.0)
    assert again == written
    assert all(
        n.reason is not Reason.SCALING_UP for n in service_status.notices([], findings, again, plan)
    )


@pytest.mark.parametrize(
    ("gpus", "most", "expected"),
    [
        (4, 9, (False, Reason.WITHIN_BOUNDS, "within all bounds")),
        (4, 1, (True, Reason.MAX_REPLICAS, "2 pods are wanted, maxReplicas is 1")),
        (1, 9, (True, Reason.NO_FREE_GPU, "2 pods are wanted, 1 are there; the cluster has")),
    ],
    ids=["enough", "max", "gpus"],
)
def test_the_binding_bound_is_a_condition(
    scenes: Scenes, gpus: int, most: int, expected: tuple[bool, Reason, str]
) -> None:
    scene = scenes(gpus=gpus, autoscaling={**AUTO, "maxReplicas": most})
    scene.add("p0", scene.make.state(2))
    plan = planned(scene)
    found = conditions.find(scene.service, plan, scene.states)
    (limited,) = (f for f in found if f.condition is Condition.SCALING_LIMITED)
    status_, reason, words = expected
    assert (limited.status, limited.reason) == (status_, reason)
    assert words in limited.message
    assert service_status.is_short(plan) == (reason is Reason.NO_FREE_GPU)


def test_when_nobody_is_heard_of_the_condition_says_so(scenes: Scenes) -> None:
    scene = scenes(autoscaling=AUTO)
    scene.add("p0", scene.make.state(2, age_s=6.0))
    plan = planned(scene, demand=scaling.Demand(gateways=1, silent=1))
    found = conditions.find(scene.service, plan, scene.states)
    (fresh,) = (f for f in found if f.condition is Condition.STATE_FRESH)
    assert (fresh.status, fresh.reason) == (False, Reason.STATE_MISSING)
    assert "nothing is scaled" in fresh.message


def test_a_given_number_has_no_bound_to_tell_of(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    found = conditions.find(scene.service, planned(scene), {})
    assert all(f.condition is not Condition.SCALING_LIMITED for f in found)


def test_gpus_that_are_not_there_bound_nothing_where_nodes_may_come(scenes: Scenes) -> None:
    scene = scenes(gpus=1, autoscaling=AUTO, placement={"whenFull": "createPending"})
    scene.add("p0", scene.make.state(2))
    plan = planned(scene, demand=scaling.Demand(waiting=5, gateways=1))
    assert plan.desired > 2
    assert plan.missing == 0
    assert plan.decision is not None
    assert plan.decision.limit is not limits.Limit.FREE_GPUS
