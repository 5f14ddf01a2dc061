"""Tests of how scaling sees a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core import scaling, sizing

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core import planning

    Scenes = Callable[..., Any]

AUTO = {"minReplicas": 1, "maxReplicas": 9, "freeSessions": {"min": 1, "percent": 0}}


def planned(scene: Any, **sight: Any) -> planning.Plan:
    """Plan a scene with what scaling goes by."""
    scene.sight = sizing.Scene(**sight)
    plan: planning.Plan = scene.plan()
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
    assert (plan.desired, plan.decision.limit) == (1, scaling.Limit.FREE_GPUS)
    assert plan.missing == 0


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
