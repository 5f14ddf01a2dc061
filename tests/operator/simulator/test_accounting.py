"""Tests of the statistics of a simulation, and of the rules that it checks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from avatar_operator.core.resources.autoscaling import Autoscaling
from avatar_operator.simulator.accounting import SHOWN, SimulationStats
from avatar_operator.simulator.pods import SimulatedPod

COSTS = {"cheap": Decimal(1), "dear": Decimal(4), "unknown": None}


def stats(**policy: Any) -> SimulationStats:
    fields = {"min_replicas": 0, "max_replicas": 4, "free_min": 1, "max_cost_per_hour": None}
    return SimulationStats(Autoscaling(**(fields | policy)), {"cheap": 2, "dear": 2}, COSTS)


def pod(name: str = "p0", gpu_class: str = "cheap", sessions: int = 0, **fields: Any) -> Any:
    made = SimulatedPod(name, name, gpu_class, 2, 8, "hash", 0.0, ready=True, **fields)
    made.sessions.update(range(sessions))
    return made


def test_nothing_happened_costs_nothing() -> None:
    result = stats().result(0)
    assert (result.gpu_hours, result.cost, result.wait_p99_s, result.reaction_p99_s) == (0,) * 4
    assert (result.waited, result.refused, result.max_pods, result.plans) == (0,) * 4
    assert (result.ended_by_operator, result.lost_with_pods, result.reversals) == (0,) * 3
    assert result.violations == ()


def test_pods_cost_what_their_class_costs_while_they_exist() -> None:
    made = stats()
    for number, gpu_class in enumerate(("cheap", "dear", "unknown"), start=1):
        made.make(0.0, pod(gpu_class=gpu_class), number, bounded=True)
    made.pass_time(1800.0, 3)
    made.delete(1800.0, pod(gpu_class="dear"), forbidden=True)
    made.pass_time(3600.0, 2)
    result = made.result(0)
    assert (result.gpu_hours, result.cost) == (1.5 + 2.0, 2.5 + 1.0)
    assert result.max_pods == 3


def test_callers_that_wait_or_give_up_are_counted() -> None:
    made = stats()
    for wait_s in (0.0, 0.0, 4.0):
        made.place(wait_s)
    made.refuse()
    made.lose(2)
    result = made.result(4)
    assert (result.sessions, result.waited, result.refused) == (4, 2, 1)
    assert result.wait_p99_s == pytest.approx(4.0, abs=0.2)
    assert result.lost_with_pods == 2


@pytest.mark.parametrize(("bounded", "broken"), [(True, 1), (False, 0)])
def test_pods_over_the_maximum_cost_break_a_rule(bounded: bool, broken: int) -> None:
    made = stats(max_cost_per_hour=Decimal(5))
    made.make(1.0, pod("p0", "cheap"), 1, bounded=bounded)
    made.make(2.0, pod("p1", "dear"), 2, bounded=bounded)  # exactly the maximum
    assert made.result(0).violations == ()
    made.make(3.0, pod("p2", "cheap"), 3, bounded=bounded)
    assert len(made.result(0).violations) == broken
    if broken:
        assert made.result(0).violations == ("3.0 s: with p2, the pods cost 6 per hour",)


def test_without_a_maximum_cost_no_pod_is_too_dear() -> None:
    made = stats()
    made.make(1.0, pod("p0", "dear"), 1, bounded=True)
    assert made.result(0).violations == ()
    fixed = SimulationStats(None, {}, COSTS)
    fixed.make(1.0, pod("p0", "dear"), 1, bounded=True)
    assert fixed.result(0).violations == ()


@pytest.mark.parametrize(
    ("sessions", "forbidden", "broken"), [(2, True, 1), (2, False, 0), (0, True, 0)]
)
def test_a_deleted_pod_with_sessions_breaks_a_rule(
    sessions: int, forbidden: bool, broken: int
) -> None:
    made = stats()
    made.delete(5.0, pod(sessions=sessions), forbidden=forbidden)
    result = made.result(0)
    assert result.ended_by_operator == sessions
    assert result.violations == ("5.0 s: p0 was deleted with 2 sessions",) * broken


def test_a_change_of_direction_is_a_reversal() -> None:
    made = stats()
    for desired in (2, 3, 3, 4, 3, 3, 2, 5):
        made.want(desired)
    result = made.result(0)
    assert (result.plans, result.reversals) == (8, 2)
    assert made.desired == 5


def test_the_reaction_is_the_time_from_a_shortage_to_the_next_pod() -> None:
    made = stats()
    full = [pod(sessions=2)]
    made.note_shortage(10.0, full, waiting=0)  # the free session that the policy asks for
    made.note_shortage(12.0, full, waiting=3)  # the same shortage
    made.make(13.5, pod("p1"), 2, bounded=True)
    made.make(20.0, pod("p2"), 3, bounded=True)  # there was no shortage any more
    assert made.result(0).reaction_p99_s == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("pods", "waiting"),
    [
        pytest.param([pod(sessions=1)], 0, id="a free session"),
        pytest.param([pod()], 0, id="no session and no caller"),
        pytest.param([pod(f"p{number}", sessions=2) for number in range(4)], 9, id="all pods"),
    ],
)
def test_a_shortage_ends_without_a_pod(pods: list[SimulatedPod], waiting: int) -> None:
    made = stats()
    made.note_shortage(10.0, [pod(sessions=2)], waiting=0)
    made.note_shortage(11.0, pods, waiting)
    made.make(13.5, pod("p9"), 2, bounded=True)
    assert made.result(0).reaction_p99_s == 0.0


def test_slots_of_a_draining_pod_do_not_count() -> None:
    made = stats()
    made.note_shortage(10.0, [pod("p0", sessions=1), pod("p1", draining=True)], waiting=1)
    made.make(11.0, pod("p2"), 3, bounded=True)
    assert made.result(0).reaction_p99_s == pytest.approx(1.0)


def test_each_broken_rule_is_named() -> None:
    made = stats()
    made.check(1.0, [pod(sessions=3)])
    made.check(2.0, [pod(f"p{number}") for number in range(3)])
    assert made.result(0).violations == (
        "1.0 s: p0 has more sessions than slots",
        "1.0 s: the number of sessions is inconsistent",
        "2.0 s: cheap has more pods than GPUs",
    )


def test_the_number_of_sessions_is_consistent() -> None:
    made = stats()
    for _ in range(5):
        made.place(0.0)
    made.end()
    made.lose(1)
    made.delete(1.0, pod(sessions=1), forbidden=False)
    made.check(2.0, [pod(sessions=2)])
    assert made.result(5).violations == ()


def test_only_the_first_violations_are_shown() -> None:
    made = stats()
    for _ in range(SHOWN + 1):
        made.check(1.0, [pod(sessions=1)])
    assert len(made.result(0).violations) == SHOWN


def test_a_sample_counts_the_slots_of_ready_pods() -> None:
    made = stats()
    made.make(0.0, pod(), 1, bounded=True)
    made.record(3.0, [pod(sessions=1), pod("p1", "dear")], waiting=4)
    starting = pod("p2")
    starting.ready = False
    made.want(3)
    made.record(4.0, [starting], waiting=0)
    first, second = made.result(1).timeline
    assert (first.at_s, first.sessions, first.waiting, first.slots, first.pods) == (3.0, 1, 4, 4, 2)
    assert (first.desired, first.classes) == (0, (("cheap", 1), ("dear", 1)))
    assert first.cost_per_hour == 1
    assert (second.slots, second.desired) == (0, 3)
