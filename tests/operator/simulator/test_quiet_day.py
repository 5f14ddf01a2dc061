"""Tests of services with few callers, over a day in virtual time (issue 13, A4)."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any, Final

import pytest

from avatar_operator.cli import simulate
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.simulator import scenario, traces, world
from avatar_operator.simulator.traces import Kind, Scale, Session
from localcluster.faults import scaling_campaign

GPU: Final = "rtx-4090"  # two sessions a pod, so that each spare slot costs half a GPU
START_S: Final = 20.0


def service() -> Service:
    autoscaling = {"minReplicas": 1, "maxReplicas": 20}
    spec = {"placement": {"gpuClasses": [GPU]}, "autoscaling": autoscaling}
    return parse_service({"metadata": {"name": "a", "namespace": "b", "uid": "s1"}, "spec": spec})


def run(trace: tuple[Session, ...], **changes: Any) -> scenario.Result:
    settings = scenario.Settings({GPU: 20}, **{"start_s": START_S, **changes})
    return world.run(service(), scaling_campaign.profiles(), trace, settings, random.Random(1))


def most_at_once(trace: tuple[Session, ...]) -> int:
    ends = [(session.arrival_s + session.duration_s, -1) for session in trace]
    changes = sorted([*((session.arrival_s, 1) for session in trace), *ends])
    return max(accumulate(change for _, change in changes))


@pytest.mark.slow
def test_a_quiet_day_costs_little_more_than_its_optimum_and_serves_callers_at_once() -> None:
    trace = traces.make(Kind.DIURNAL, Scale(2.7), random.Random(2))
    assert 1.3 < sum(session.duration_s for session in trace) / 86400 < 1.5
    assert most_at_once(trace) == 8
    result = run(trace)
    optimum = simulate.buffered_optimum(service(), trace, 2, START_S)
    assert result.gpu_hours <= 1.15 * optimum
    assert result.at_once_ratio >= 0.99
    assert result.max_pods <= 7  # ⌈(8 sessions + headroom) / 2⌉, where chance bought 11 before
    assert (result.refused, result.ended_by_operator, result.violations) == (0, 0, ())


def test_three_sessions_that_come_together_and_stay_need_three_pods() -> None:
    trace = tuple(Session(600.0 + index, 3600.0) for index in range(3))
    assert run(trace, start_s=30.0, start_spread=0.0).max_pods <= 4


def test_two_callers_after_one_a_minute_buy_no_pods() -> None:
    steady = [60.0 * index for index in range(1, 21)]
    both = [*steady, 1262.0, 1264.0]
    before = run(tuple(Session(at, 90.0) for at in steady), start_s=30.0)
    after = run(tuple(Session(at, 90.0) for at in both), start_s=30.0)
    assert after.max_pods - before.max_pods <= 1
