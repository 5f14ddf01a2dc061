"""The figures of a simulation, each from the events that it counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from avatar_operator.core.resources.service import parse_service
from avatar_operator.simulator.accounting import SimulationStats
from avatar_operator.simulator.pods import SimulatedPod

COSTS = {"h100": Decimal(3), "l4": Decimal(1), "free": None}


def stats(**autoscaling: Any) -> SimulationStats:
    bounds = {"minReplicas": 1, "maxReplicas": 4, "freeSessions": {"min": 1, "percent": 0}}
    spec = {"autoscaling": {**bounds, **autoscaling}}
    metadata = {"name": "a", "namespace": "b", "uid": "s1"}
    policy = parse_service({"metadata": metadata, "spec": spec}).autoscaling
    return SimulationStats(policy, {"h100": 2, "l4": 1}, COSTS)


def pod(name: str, gpu_class: str = "h100", sessions: int = 0, **fields: Any) -> SimulatedPod:
    values: dict[str, Any] = {"slots": 2, "batch_size": 8, "spec_hash": "x", "created_s": 0.0}
    values |= fields
    return SimulatedPod(name, name, gpu_class, sessions=set(range(sessions)), **values)


def test_hours_and_costs_are_those_of_the_pods_over_time() -> None:
    counted = stats()
    counted.make(0.0, pod("a"), 1, bounded=True)
    counted.pass_time(3600.0, 1)
    counted.make(3600.0, pod("b", "l4"), 2, bounded=True)
    counted.pass_time(1800.0, 2)
    counted.delete(5400.0, pod("a"), forbidden=True)
    counted.pass_time(1800.0, 1)
    result = counted.result(0)
    assert (result.gpu_hours, result.cost) == (1 + 1 + 0.5, 3 + 2 + 0.5)
    assert (result.max_pods, result.violations) == (2, ())


def test_run_without_pods_costs_nothing() -> None:
    counted = stats()
    counted.pass_time(3600.0, 0)
    result = counted.result(0)
    assert (result.gpu_hours, result.cost, result.max_pods, result.plans) == (0, 0, 0, 0)


def test_waiting_callers_are_those_that_waited_or_gave_up() -> None:
    counted = stats()
    for wait_s in (0.0, 0.0, 4.0):
        counted.place(wait_s)
    counted.refuse()
    counted.end()
    result = counted.result(4)
    assert (result.sessions, result.waited, result.refused) == (4, 2, 1)
    assert result.wait_p99_s == pytest.approx(4.0, abs=0.1)
    assert result.at_once_ratio == 0.5


def test_sessions_of_a_deleted_pod_are_cut_and_a_violation() -> None:
    counted = stats()
    counted.delete(7.0, pod("a", sessions=2), forbidden=True)
    counted.delete(8.0, pod("b", sessions=1), forbidden=False)
    counted.delete(9.0, pod("c"), forbidden=True)
    result = counted.result(3)
    assert result.ended_by_operator == 3
    assert result.violations == ("7.0 s: a was deleted with 2 sessions",)


def test_crashed_sessions_are_lost_and_not_cut() -> None:
    counted = stats()
    counted.lose(3)
    assert (counted.result(3).lost_with_pods, counted.result(3).ended_by_operator) == (3, 0)


def test_reaction_is_the_time_from_the_shortage_to_the_next_pod() -> None:
    counted = stats()
    full = [pod("a", sessions=2, ready=True)]
    counted.note_shortage(10.0, full, waiting=0)
    counted.note_shortage(12.0, full, waiting=1)  # the shortage began earlier
    counted.make(14.5, pod("b"), 2, bounded=True)
    counted.make(20.0, pod("c"), 3, bounded=True)  # no shortage
    assert counted.result(0).reaction_p99_s == 4.5


@pytest.mark.parametrize(
    ("pods", "waiting"),
    [
        ([pod("a", sessions=1)], 0),  # one slot is free, as `freeSessions.min` asks
        ([pod("a")], 0),
        ([], 0),  # nobody calls
        ([pod("a", sessions=2), pod("b", sessions=2), pod("c", sessions=2)], 1),  # no GPU is left
    ],
    ids=["headroom", "idle", "empty", "full"],
)
def test_no_shortage_where_the_slots_suffice_or_no_gpu_is_left(
    pods: list[SimulatedPod], waiting: int
) -> None:
    counted = stats()
    counted.note_shortage(1.0, pods, waiting)
    counted.make(9.0, pod("z"), 1, bounded=True)
    assert counted.result(0).reaction_p99_s == 0.0


@pytest.mark.parametrize(
    ("pods", "waiting"),
    [
        ([pod("a", sessions=2)], 0),
        ([pod("a", sessions=1, draining=True)], 0),  # a draining pod has no slots for callers
        ([], 1),
        ([pod("a", sessions=1), pod("b", sessions=2)], 1),  # the free slot is for a caller
    ],
    ids=["full", "draining", "no pod", "waiting"],
)
def test_shortage_counts_sessions_waiting_callers_and_headroom(
    pods: list[SimulatedPod], waiting: int
) -> None:
    counted = stats()
    counted.note_shortage(1.0, pods, waiting)
    counted.make(9.0, pod("z"), 1, bounded=True)
    assert counted.result(0).reaction_p99_s == 8.0


def test_reversals_are_changes_of_direction() -> None:
    counted = stats()
    for desired in (1, 1, 3, 5, 5, 4, 2, 6):
        counted.want(desired)
    result = counted.result(0)
    assert (result.reversals, result.plans, counted.desired) == (2, 8, 6)


@pytest.mark.parametrize(("bounded", "broken"), [(True, 1), (False, 0)])
def test_pods_beyond_the_maximum_cost_are_a_violation(bounded: bool, broken: int) -> None:
    counted = stats(maxCostPerHour="4")
    counted.make(0.0, pod("a"), 1, bounded=bounded)
    counted.make(1.0, pod("b", "l4"), 2, bounded=bounded)
    assert counted.result(0).violations == ()
    counted.make(2.0, pod("c", "l4"), 3, bounded=bounded)
    assert len(counted.result(0).violations) == broken
    if broken:
        assert counted.result(0).violations == ("2.0 s: with c, the pods cost 5 per hour",)


def test_service_without_autoscaling_has_no_cost_limit_and_no_shortage() -> None:
    counted = SimulationStats(None, {"h100": 1}, COSTS)
    counted.note_shortage(1.0, [], waiting=5)
    counted.make(9.0, pod("a"), 1, bounded=True)
    result = counted.result(0)
    assert (result.reaction_p99_s, result.violations) == (0.0, ())


def test_each_broken_rule_is_recorded_with_its_time() -> None:
    counted = stats()
    counted.check(1.0, [pod("a", sessions=3), pod("b"), pod("c")])
    assert counted.result(0).violations == (
        "1.0 s: a has more sessions than slots",
        "1.0 s: h100 has more pods than GPUs",
        "1.0 s: the number of sessions is inconsistent",
    )


def test_consistent_cluster_breaks_no_rule() -> None:
    counted = stats()
    for _ in range(6):
        counted.place(0.0)
    counted.end()
    counted.lose(1)
    counted.delete(1.0, pod("x", sessions=2), forbidden=False)
    counted.check(2.0, [pod("a", sessions=2), pod("b"), pod("c", "l4")])
    assert counted.result(6).violations == ()


def test_sample_shows_the_cluster_at_one_time() -> None:
    counted = stats()
    counted.make(0.0, pod("a"), 1, bounded=True)
    counted.want(3)
    ready, starting = pod("a", sessions=1, ready=True), pod("b", "l4")
    counted.record(5.0, [ready, starting], waiting=2)
    (sample,) = counted.result(0).timeline
    assert (sample.at_s, sample.sessions, sample.waiting, sample.slots) == (5.0, 1, 2, 2)
    assert (sample.pods, sample.desired, sample.cost_per_hour) == (2, 3, Decimal(3))
    assert sample.classes == (("h100", 1), ("l4", 1))
