"""Tests of services over traces in virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.simulator import scenario, traces, world
from avatar_operator.simulator.traces import Kind, Scale, Session
from localcluster.bench import baselines
from localcluster.faults import scaling_campaign

GPU = "h100-80gb"


def service(**autoscaling: Any) -> Service:
    bounds = {"minReplicas": 1, "maxReplicas": 8, "freeSessions": {"min": 2, "percent": 10}}
    spec = {"placement": {"gpuClasses": [GPU]}, "autoscaling": {**bounds, **autoscaling}}
    metadata = {"name": "a", "namespace": "b", "uid": "s1"}
    return parse_service({"metadata": metadata, "spec": spec})


def run(
    trace: tuple[Session, ...], baseline: scenario.Scaler | None = None, **changes: Any
) -> scenario.Result:
    autoscaling = changes.pop("autoscaling", {})
    settings = scenario.Settings({GPU: 8}, **changes)
    profiles = scaling_campaign.profiles()
    chance = random.Random(5)
    return world.run(service(**autoscaling), profiles, trace, settings, chance, baseline)


def test_optimum_is_the_area_under_the_pods_that_sessions_need() -> None:
    trace = (Session(0, 3600), Session(0, 3600), Session(1800, 1800))
    assert world.optimum_gpu_hours(trace, 2) == 1.0 + 0.5
    assert world.optimum_gpu_hours(trace, 2, lambda live: 1) == 2.0


def test_sessions_that_fit_cost_what_their_pod_costs() -> None:
    result = run((Session(100.0, 500.0),))
    assert (result.sessions, result.waited, result.refused, result.max_pods) == (1, 0, 0, 1)
    assert result.gpu_hours == pytest.approx(900 / 3600, rel=0.01)


def test_a_service_at_zero_is_woken_and_goes_back() -> None:
    to_zero = {"minReplicas": 0, "scaleToZeroAfterSeconds": 60}
    result = run((Session(100.0, 50.0),), autoscaling=to_zero, start_s=10.0, start_spread=0.0)
    assert (result.waited, result.refused) == (1, 0)
    assert result.wait_p99_s == pytest.approx(10.0, abs=0.2)
    assert result.gpu_hours * 3600 == pytest.approx(10 + 50 + 60, abs=3)


def test_the_same_seed_gives_the_same_run() -> None:
    trace = traces.make(Kind.SPIKES, Scale(20), random.Random(2))
    assert run(trace) == run(trace)


def test_a_step_is_followed_at_once_and_without_flapping() -> None:
    trace = tuple(Session(600 + index * 0.1, 900.0) for index in range(80))
    result = run(trace)
    assert result.ended_by_operator == result.refused == 0
    assert result.reaction_p99_s <= 1.0
    assert result.reversals <= 1
    desired = [sample.desired for sample in result.timeline]
    assert max(desired) == result.max_pods == 8


def test_callers_beyond_all_gpus_give_up_and_the_rest_is_served() -> None:
    pod = 14
    trace = tuple(Session(10.0 + index * 0.01, 900.0) for index in range(8 * pod + 5))
    result = run(trace, patience_s=120.0)
    assert (result.refused, result.max_pods, result.violations) == (5, 8, ())


def test_a_crowd_finds_the_reserve_within_a_second_where_it_would_wait_for_pods() -> None:
    crowd = tuple(Session(600 + index * 0.05, 300.0) for index in range(28))
    cold = run(crowd, start_s=20.0)
    warm = run(crowd, start_s=20.0, autoscaling={"reserve": 2})
    assert cold.wait_p99_s >= 10.0
    assert warm.wait_p99_s <= 1.0
    assert (warm.waited, warm.ended_by_operator, warm.violations) == (0, 0, ())
    assert warm.max_pods > 3  # the reserve is replaced when it is used


def test_a_schedule_is_ready_before_the_crowd_and_gone_after_it() -> None:
    # Virtual time begins at 22:13:20 UTC: the schedule holds from 400 s to 700 s.
    rush = {"name": "rush", "start": "20 22 * * *", "end": "25 22 * * *"}
    crowd = tuple(Session(600 + index * 0.05, 60.0) for index in range(40))
    plain = run(crowd)
    ready = run(crowd, autoscaling={"schedules": [{**rush, "freeSessions": {"min": 42}}]})
    assert plain.waited > 0
    assert ready.waited == 0
    pods = {round(sample.at_s): sample.desired for sample in ready.timeline}
    assert [pods[at] for at in (0, 400)] == [1, 3]
    assert ready.timeline[-1].desired == 1


def test_the_cost_bounds_the_pods_whatever_the_callers() -> None:
    trace = tuple(Session(10.0 + index * 0.1, 600.0) for index in range(100))
    costs = {profile.name: profile.cost_per_hour for profile in scaling_campaign.profiles()}
    cost = costs[GPU]
    assert cost is not None
    result = run(trace, autoscaling={"maxCostPerHour": str(3 * cost)})
    assert (result.max_pods, result.ended_by_operator, result.violations) == (3, 0, ())


def test_a_rate_spreads_the_way_up() -> None:
    trace = tuple(Session(100.0 + index * 0.1, 900.0) for index in range(80))
    result = run(trace, patience_s=600.0, autoscaling={"rate": {"upPods": 2}})
    timeline = [(sample.at_s, sample.desired) for sample in result.timeline]
    for at_s, desired in timeline:
        assert desired <= 2 + min(count for at, count in timeline if at_s - 60 < at <= at_s)
    assert (result.max_pods, result.refused) == (7, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.STEP, Kind.SPIKES, Kind.DRAIN], ids=lambda kind: kind.value)
def test_rivals_cut_sessions_where_ours_cuts_none(kind: Kind) -> None:
    trace = traces.make(kind, Scale(80), random.Random(4))
    ours = run(trace)
    assert (ours.ended_by_operator, ours.violations) == (0, ())
    cut = 0
    for baseline in (baselines.HorizontalPodAutoscaler(), baselines.KnativePodAutoscaler()):
        other = run(trace, baseline)
        cut += other.ended_by_operator
        assert ours.reaction_p99_s <= other.reaction_p99_s
        assert ours.at_once_ratio >= other.at_once_ratio
    assert cut > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_no_fault_makes_the_operator_end_a_session(first: int) -> None:
    for seed in range(first, first + 20):
        result = scaling_campaign.run(seed)
        assert not result.violations, scaling_campaign.broken(seed, result)
        assert result.ended_by_operator == 0


class CountingScaler:
    """A baseline that keeps two pods and records what it was told."""

    every_s = 10.0

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        self.told.append((pods, ready))
        return 2


def test_a_baseline_knows_how_many_of_the_pods_are_ready() -> None:
    scaler = CountingScaler()
    run((Session(100.0, 300.0),), scaler, start_s=25.0, start_spread=0.0)
    assert all(ready <= pods for pods, ready in scaler.told)
    assert (2, 0) in scaler.told
    assert scaler.told[-1] == (2, 2)
