"""The faults of a simulation happen as the settings say, each with a source of fixed numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.autoscaling import capacity
from avatar_operator.core.resources.service import parse_service
from avatar_operator.simulator import scenario, world
from avatar_operator.simulator.scenario import Faults
from avatar_operator.simulator.traces import Session
from avatar_operator.simulator.world import EventKind, SimulatedCluster
from localcluster.bench import baselines
from localcluster.faults import scaling_campaign

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_operator.core.autoscaling.inputs import ScalingResult

GPU = "h100-80gb"


class Numbers:
    """A source of random numbers that repeats the given ones."""

    def __init__(self, *values: float) -> None:
        self._values = values
        self._drawn = 0

    def random(self) -> float:
        self._drawn += 1
        return self._values[(self._drawn - 1) % len(self._values)]


def cluster(
    *values: float,
    baseline: scenario.Scaler | None = None,
    trace: Iterable[Session] = (Session(10.0, 600.0),),
    decisions: list[ScalingResult] | None = None,
    **settings: Any,
) -> SimulatedCluster:
    bounds = {"minReplicas": 2, "maxReplicas": 8, "freeSessions": {"min": 2, "percent": 10}}
    spec = {"placement": {"gpuClasses": [GPU]}, "autoscaling": bounds}
    service = parse_service({"metadata": {"name": "a", "namespace": "b", "uid": "s"}, "spec": spec})
    return SimulatedCluster(
        service,
        scaling_campaign.profiles(),
        tuple(trace),
        scenario.Settings({GPU: 8}, start_spread=0.0, **settings),
        Numbers(*values),
        baseline,
        None if decisions is None else decisions.append,
    )


@pytest.mark.parametrize(("number", "off_s"), [(0.0, -3600.0), (0.5, 0.0), (1.0, 3600.0)])
def test_clock_jumps_by_up_to_an_hour(number: float, off_s: float) -> None:
    simulated = cluster(number)
    simulated._handle(EventKind.CLOCK, 0, "")
    assert simulated._clock_off_s == off_s


def test_silent_pod_sends_nothing_for_the_drawn_time() -> None:
    simulated = cluster(0.5, faults=Faults(silence_s=30.0))
    simulated._create("p", GPU, simulated.best())
    simulated._now = 100.0
    simulated._handle(EventKind.SILENCE, 0, "pod")
    assert simulated._pods["p"].silent_until_s == pytest.approx(100 + 30 * math.log(2))
    assert simulated._gateway_silent_until == 0.0
    wakes = sorted(at for at, what, *_ in simulated._events if what is EventKind.PLAN)
    assert wakes[-2:] == pytest.approx(
        [100 + capacity.STALE_S + 0.01, 100 + 30 * math.log(2) + 0.01]
    )


def test_silent_gateway_reports_no_callers_and_its_demand_is_stale_later() -> None:
    simulated = cluster(0.5, faults=Faults(silence_s=30.0))
    simulated._now = 100.0
    simulated._send_states()
    simulated._handle(EventKind.SILENCE, 0, "gateway")
    assert simulated._gateway_silent_until == pytest.approx(100 + 30 * math.log(2))
    simulated._now = 101.0
    simulated._send_states()
    assert simulated._gateway_heard_s == 100.0
    observed = simulated._observed().scaling_context
    assert observed is not None
    assert observed.demand.silent == 0
    simulated._now = 100.0 + capacity.STALE_S + 0.1
    observed = simulated._observed().scaling_context
    assert observed is not None
    assert observed.demand.silent == 1


def test_restarted_operator_is_away_and_then_without_states() -> None:
    simulated = cluster(0.5, faults=Faults(restart_s=5.0))
    simulated._create("p", GPU, simulated.best())
    simulated._pods["p"].ready = True
    simulated._now = 100.0
    simulated._pods["p"].send_state(100.0)
    assert set(simulated._observed().states) == {"p#1"}
    simulated._handle(EventKind.RESTART, 0, "")
    assert simulated._down_until == 105.0
    assert simulated._cut_off_until == 105.0 + world.RECONNECT_S
    simulated._now = 105.0
    assert simulated._observed().states == {}
    simulated._now = 105.0 + world.RECONNECT_S
    assert set(simulated._observed().states) == {"p#1"}


def test_new_leader_has_all_states_and_no_history() -> None:
    simulated = cluster(0.5)
    simulated._now = 100.0
    simulated._handle(EventKind.LEAD, 0, "")
    assert simulated._down_until == simulated._cut_off_until == 100.0 + world.LEADERLESS_S / 2
    assert simulated._history is None


def test_crashed_pod_loses_its_sessions_and_starts_again() -> None:
    simulated = cluster(0.5, start_s=20.0)
    for name in ("p", "q"):
        simulated._create(name, GPU, simulated.best())
    first, second = simulated._pods.values()
    second.ready, second.sessions, version = True, {0, 1}, second.version
    simulated._now = 100.0
    simulated._handle(EventKind.CRASH, 0, "")
    assert (second.ready, second.sessions, second.version) == (False, set(), version + 1)
    assert first.version == version
    assert simulated._stats.result(2).lost_with_pods == 2
    starts = {event[2:]: event[0] for event in simulated._events if event[1] is EventKind.READY}
    assert starts[second.version, "q"] == pytest.approx(120.0)


def test_failed_writes_are_tried_again_a_second_later() -> None:
    # The first number is drawn for the first action; the pods appear with the second plan.
    simulated = cluster(0.5, faults=Faults(api_fault_ratio=0.6))
    simulated._plan()
    assert simulated._pods == {}
    assert simulated._plan_at == 1.0


def test_faults_come_at_the_rate_of_the_settings() -> None:
    simulated = cluster(0.5, faults=Faults(restarts_per_hour=60.0))
    simulated._schedule_faults()
    step = 60 * math.log(2)
    times = [at for at, what, *_ in sorted(simulated._events) if what is EventKind.RESTART]
    assert times[:3] == pytest.approx([step, 2 * step, 3 * step])
    assert len(times) == int(simulated._end_s / step)


def test_baseline_is_told_the_ready_pods_and_deletes_the_newest() -> None:
    calls: list[tuple[float, int, int, int, int]] = []

    class Fixed:
        every_s = 15.0

        def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
            calls.append((at_s, sessions, pods, ready, per_pod))
            return 4 if at_s < 60 else 2

    simulated = cluster(0.5, baseline=Fixed(), start_s=20.0)
    result = simulated.run()
    per_pod = simulated.best().sessions_per_pod
    assert calls[:4] == [
        (0.0, 0, 0, 0, per_pod),
        (15.0, 1, 4, 0, per_pod),
        (30.0, 1, 4, 4, per_pod),
        (45.0, 1, 4, 4, per_pod),
    ]
    assert calls[5][2:4] == (2, 2)
    assert (result.max_pods, result.violations) == (4, ())


def test_baselines_keep_the_limits_of_the_service() -> None:
    result = cluster(0.5, baseline=baselines.HorizontalPodAutoscaler()).run()
    assert min(sample.desired for sample in result.timeline) == 2
    assert result.gpu_hours * 3600 == pytest.approx(2 * (610.0 + world.LATE_S), rel=0.1)
