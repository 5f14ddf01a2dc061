"""Tests of the number of pods that a service should have."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling import scaling
from avatar_operator.core.autoscaling.capacity import STALE_S, Offer, Pod
from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.autoscaling.observation import Demand, Observation
from avatar_operator.core.autoscaling.scaling import DecisionReason
from avatar_operator.core.resources.autoscaling import Autoscaling

if TYPE_CHECKING:
    from avatar_operator.core.autoscaling.figures import Figures

POLICY = Autoscaling(min_replicas=1, max_replicas=20, free_min=2, free_percent=20)

CALM = Demand(gateways=1)


def pod(uid: str = "p0", sessions: int = 0, **changes: Any) -> Pod:
    fields = {"slots": 5, "ready": True, "draining": False, "age_s": 500.0, "state_age_s": 0.1}
    return Pod(uid=uid, sessions=sessions, **{**fields, **changes})


def starting(uid: str, age_s: float = 1.0) -> Pod:
    return pod(uid, ready=False, age_s=age_s, state_age_s=inf)


class Run:
    """One service over time; each call is one decision."""

    def __init__(self, policy: Autoscaling = POLICY, free: int = 100) -> None:
        self.policy = policy
        self.offers: tuple[Offer, ...] = (Offer("rtx-4090", 5, free),)
        self.history: scaling.History | None = None
        self.now = 1000.0
        self.most_sessions: int | None = None

    def decide(self, *pods: Pod, after_s: float = 1.0, demand: Demand = CALM) -> scaling.Decision:
        self.now += after_s
        observation = Observation(pods, self.offers, demand, most_sessions=self.most_sessions)
        decision = scaling.decide(self.policy, observation, self.history, self.now)
        self.history = decision.history
        return decision


def loads(*sessions: int) -> tuple[Pod, ...]:
    return tuple(pod(f"p{index}", count) for index, count in enumerate(sessions))


def test_wanted_slots_are_sessions_waiting_and_headroom() -> None:
    decision = Run().decide(*loads(5, 5), demand=Demand(waiting=3, gateways=1))
    assert decision.figures.slots == 10 + 3 + 2
    assert (decision.pods, decision.reason) == (3, DecisionReason.DEMAND)


def test_headroom_is_the_percentage_of_many_sessions() -> None:
    assert Run().decide(*loads(*[5] * 10)).figures.headroom == 10


def burst(run: Run, *sessions: int) -> scaling.Decision:
    run.decide(*loads(*sessions), demand=Demand(arrived=0, gateways=1))
    return run.decide(*loads(*sessions), after_s=9.0, demand=Demand(arrived=3, gateways=1))


def test_no_headroom_is_kept_for_callers_whom_the_tenant_would_refuse() -> None:
    assert burst(Run(), 1).pods == 2
    limited = Run()
    limited.most_sessions = 3
    decision = burst(limited, 1)
    assert (decision.pods, decision.figures.headroom) == (1, 2)
    full = Run()
    full.most_sessions = 5
    assert burst(full, 5).pods == 2  # freeSessions.min is the choice of the owner
    assert burst(full, 5).figures.headroom == POLICY.free_min


@given(
    arrived=st.integers(0, 200),
    sessions=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    most=st.integers(0, 60),
    waiting=st.integers(0, 10),
)
def test_slots_follow_what_the_tenant_may_use_but_never_less_than_its_sessions(
    arrived: int, sessions: list[int], most: int, waiting: int
) -> None:
    def figures(limit: int | None) -> Figures:
        run = Run()
        run.most_sessions = limit
        run.decide(*loads(*sessions), demand=Demand(arrived=0, gateways=1))
        demand = Demand(waiting, arrived, gateways=1)
        return run.decide(*loads(*sessions), after_s=9.0, demand=demand).figures

    free, bound = figures(None), figures(most)
    occupied = sum(sessions) + waiting
    minimum = max(POLICY.free_min, -(-sum(sessions) * POLICY.free_percent // 100))
    assert occupied + minimum <= bound.slots <= free.slots
    assert bound.slots <= max(most, occupied + minimum)
    if most >= free.slots:
        assert bound == free


def test_headroom_covers_who_comes_while_a_pod_starts() -> None:
    run = Run()
    run.decide(*loads(0), demand=Demand(arrived=0, gateways=1))
    decision = run.decide(*loads(0), after_s=60.0, demand=Demand(arrived=60, gateways=1))
    # All within one second: a burst of 10/s. A start is assumed to take 30 s, so 300 callers come
    # in the mean, at most 329 in 95 of 100 cases, after the one that causes the start.
    assert decision.figures.arrivals_per_s == pytest.approx(10.0)
    assert decision.figures.headroom == 330
    assert (decision.pods, decision.limit) == (20, Limit.MAX_REPLICAS)


def test_measured_starts_replace_the_believed_one() -> None:
    run = Run()
    run.decide(pod(), starting("p1", 3.0))
    decision = run.decide(pod(), pod("p1", age_s=4.0))
    assert decision.figures.start_s == 4.0


def test_starting_pods_are_coming_capacity_so_nothing_is_asked_for_twice() -> None:
    run = Run()
    asked = [run.decide(*loads(5)).pods]
    asked += [run.decide(*loads(5), starting("p1", age)).pods for age in (1.0, 5.0, 20.0)]
    assert asked == [2, 2, 2, 2]


def test_a_pod_that_is_overdue_is_not_counted_on() -> None:
    run = Run()
    run.decide(*loads(5))
    assert run.decide(*loads(5), starting("p1", 59.0)).pods == 2
    assert run.decide(*loads(5), starting("p1", 61.0)).pods == 3


def test_pods_that_never_start_ask_for_no_more_of_them() -> None:
    run = Run()
    waiting = Demand(waiting=4, gateways=1)
    first = run.decide(demand=waiting)
    stuck = [starting(f"p{index}", 500.0) for index in range(first.pods)]
    assert run.decide(*stuck, demand=waiting).pods == first.pods == 2


def test_up_at_once_and_down_after_the_hold_time() -> None:
    run = Run()
    assert run.decide(*loads(5, 5, 5)).pods == 4
    decisions = [run.decide(*loads(0, 0, 0, 0), after_s=30.0) for _ in range(5)]
    assert [d.pods for d in decisions] == [4, 4, 4, 4, 1]
    assert [d.reason for d in decisions[3:]] == [
        DecisionReason.SURPLUS_UNPROVEN,
        DecisionReason.PEAK_OF_HOLD_TIME,
    ]
    assert decisions[0].wake_after_s == 120.0


def test_down_goes_to_the_highest_wish_of_the_hold_time() -> None:
    run = Run()
    run.decide(*loads(5, 5, 5))
    run.decide(*loads(0, 0, 0, 0), after_s=60.0)
    run.decide(*loads(5, 2, 0, 0), after_s=60.0)  # a second, lower pods_wanted: 2 pods
    run.decide(*loads(0, 0, 0, 0), after_s=10.0)
    assert run.decide(*loads(0, 0, 0, 0), after_s=100.0).pods == 2
    assert run.decide(*loads(0, 0, 0, 0), after_s=30.0).pods == 1


def test_an_operator_that_starts_holds_what_is_there() -> None:
    run = Run()
    first = run.decide(*loads(0, 0, 0))
    assert (first.pods, first.reason) == (3, DecisionReason.SURPLUS_UNPROVEN)
    assert run.decide(*loads(0, 0, 0), after_s=119.0).pods == 3
    assert run.decide(*loads(0, 0, 0), after_s=2.0).pods == 1


def test_one_silent_pod_stops_the_way_down_but_not_up() -> None:
    run = Run()
    run.decide(*loads(5, 0, 0))
    stale = pod("p2", state_age_s=5.1)
    down = run.decide(*loads(1, 0), stale, after_s=300.0)
    assert (down.pods, down.reason) == (3, DecisionReason.STATE_STALE)
    up = run.decide(*loads(5, 5), stale)
    assert (up.pods, up.reason, up.figures.capacity) == (4, DecisionReason.DEMAND, 10)


def test_pods_that_fall_silent_together_are_replaced_only_if_callers_wait() -> None:
    run = Run()
    run.decide(*loads(5, 0))
    silent_pods = [replace(p, state_age_s=4.0) for p in loads(5, 0)]
    held = run.decide(*silent_pods)
    assert (held.pods, held.reason) == (2, DecisionReason.STATE_STALE)
    up = run.decide(*silent_pods, demand=Demand(waiting=1, gateways=1))
    assert (up.pods, up.reason) == (3, DecisionReason.DEMAND)


def test_time_without_sight_proves_no_surplus() -> None:
    run = Run()
    run.decide(*loads(0, 0, 0))
    run.decide(*loads(0, 0), pod("p2", state_age_s=6.0), after_s=100.0)
    run.decide(*loads(0, 0, 0), after_s=10.0)
    assert run.decide(*loads(0, 0, 0), after_s=100.0).pods == 3
    assert run.decide(*loads(0, 0, 0), after_s=21.0).pods == 1


def test_a_silent_gateway_stops_the_way_down() -> None:
    run = Run()
    run.decide(*loads(0, 0))
    silent = Demand(gateways=2, silent=1)
    assert (
        run.decide(*loads(0, 0), after_s=500.0, demand=silent).reason is DecisionReason.STATE_STALE
    )


def test_when_nobody_is_heard_nothing_changes_and_it_is_said() -> None:
    run = Run()
    run.decide(*loads(5, 5))
    silent_pods = [replace(p, state_age_s=6.0) for p in loads(5, 5)] + [starting("p2")]
    decision = run.decide(
        *silent_pods, after_s=900.0, demand=Demand(waiting=50, gateways=2, silent=2)
    )
    assert (decision.pods, decision.reason, decision.is_blind) == (
        3,
        DecisionReason.FROZEN_STALE,
        True,
    )
    again = run.decide(*loads(5, 5, 0))
    assert (again.reason, again.is_blind) == (DecisionReason.STEADY, False)


def test_the_binding_bound_is_named() -> None:
    run = Run(replace(POLICY, max_replicas=2))
    decision = run.decide(*loads(5, 5))
    assert (decision.pods, decision.limit) == (2, Limit.MAX_REPLICAS)
    run = Run(free=0)
    decision = run.decide(*loads(5, 5))
    assert (decision.pods, decision.limit, decision.figures.wanted) == (2, Limit.FREE_GPUS, 3)


def test_the_least_number_is_asked_for_even_without_gpus() -> None:
    assert Run(replace(POLICY, min_replicas=3), free=0).decide().pods == 3


def test_bounds_of_the_owner_hold_at_once() -> None:
    run = Run()
    assert run.decide(*loads(5, 5, 5)).pods == 4
    run.policy = replace(POLICY, max_replicas=2)
    assert run.decide(*loads(5, 5, 5)).pods == 2
    run.policy = replace(POLICY, min_replicas=6)
    assert run.decide(*loads(5, 5, 5)).pods == 6


def test_new_pods_count_by_the_slots_of_their_class() -> None:
    run = Run(replace(POLICY, free_min=20))
    run.offers = (Offer("h100-80gb", 12, 1), Offer("rtx-4090", 5, 9))
    assert run.decide(*loads(5)).pods == 1 + 1 + 2  # 20 more slots: 12, then 5 and 5


def test_without_free_gpus_it_says_how_many_pods_of_the_best_class_are_missing() -> None:
    run = Run(replace(POLICY, free_min=24))
    run.offers = (Offer("h100-80gb", 12, 0), Offer("rtx-4090", 5, 0))
    assert run.decide(*loads(5)).figures.wanted == 1 + 2


def test_a_strained_pod_counts_fewer_slots_so_the_service_grows() -> None:
    run = Run()
    assert run.decide(*loads(4, 3)).pods == 2
    loaded = [pod("p0", 4, load_factor=2.0), pod("p1", 3)]
    decision = run.decide(*loaded)
    assert (decision.pods, decision.figures.capacity) == (3, 2 + 5)


def test_frozen_holds_and_paused_holds_only_the_way_down() -> None:
    run = Run()
    run.decide(*loads(5, 5))
    run.policy = replace(POLICY, freeze=True)
    assert run.decide(*loads(5, 5, 5)).reason is DecisionReason.FROZEN
    run.policy = replace(POLICY, pause_scale_in=True)
    assert run.decide(*loads(5, 5, 5)).pods == 4
    decision = run.decide(*loads(0, 0, 0, 0), after_s=900.0)
    assert (decision.pods, decision.reason) == (4, DecisionReason.SCALE_IN_PAUSED)


TO_ZERO = Autoscaling(0, 5, free_min=1, free_percent=0, down_after_s=30, zero_after_s=60)


def test_the_last_pod_goes_when_nobody_came_for_so_long() -> None:
    run = Run(TO_ZERO)
    run.decide(*loads(1))
    run.decide(*loads(0), after_s=200.0)  # nothing says that the session did not end just now
    assert run.decide(*loads(0), after_s=59.0).pods == 1
    decision = run.decide(*loads(0), after_s=2.0)
    assert (decision.pods, decision.reason) == (0, DecisionReason.IDLE)
    assert run.decide(after_s=5.0).pods == 0


def test_a_caller_who_waits_wakes_a_service_from_zero() -> None:
    run = Run(TO_ZERO)
    assert run.decide().pods == 0
    decision = run.decide(demand=Demand(waiting=1, arrived=1, gateways=1))
    assert (decision.pods, decision.reason) == (1, DecisionReason.DEMAND)


def test_a_caller_who_was_refused_wakes_it_too() -> None:
    run = Run(replace(TO_ZERO, free_min=0))
    assert run.decide().pods == 0
    assert run.decide(demand=Demand(arrived=1, gateways=1)).pods == 1


def test_without_a_time_for_it_the_last_pod_stays() -> None:
    run = Run(replace(TO_ZERO, zero_after_s=None, free_min=0))
    run.decide(*loads(0))
    assert run.decide(*loads(0), after_s=9000.0).pods == 1


def test_at_rest_it_asks_for_no_further_look() -> None:
    run = Run()
    run.decide(*loads(1))
    assert run.decide(*loads(1), after_s=500.0).wake_after_s is None


SEEN = st.builds(
    Pod,
    uid=st.uuids().map(str),
    slots=st.integers(1, 12),
    sessions=st.integers(0, 12),
    ready=st.booleans(),
    draining=st.booleans(),
    age_s=st.floats(0, 300),
    state_age_s=st.sampled_from([0.1, STALE_S - 0.1, STALE_S + 0.1, inf]),
    load_factor=st.floats(1, 4),
)
STEP = st.tuples(
    st.lists(SEEN, max_size=6),
    st.integers(0, 9),  # waiting
    st.integers(0, 20),  # new callers
    st.integers(0, 2),  # silent gateways of two
    st.integers(0, 6),  # free GPUs
    st.floats(0.01, 90),
)
POLICIES = st.builds(
    lambda low, more, **rest: Autoscaling(low, max(1, low + more), **rest),
    low=st.integers(0, 3),
    more=st.integers(0, 6),
    free_min=st.integers(0, 6),
    free_percent=st.integers(0, 200),
    down_after_s=st.sampled_from([0.0, 30.0, 120.0]),
    zero_after_s=st.sampled_from([None, 60.0]),
    pause_scale_in=st.booleans(),
)


@given(POLICIES, st.lists(STEP, min_size=1, max_size=25))
def test_no_decision_breaks_its_rules(policy: Autoscaling, steps: list[Any]) -> None:
    history, now, arrived, before = None, 0.0, 0, None
    for pods, waiting, callers, silent, free, after_s in steps:
        now += after_s
        arrived += callers
        demand = Demand(waiting, arrived, 2, silent)
        observation = Observation(pods, (Offer("a", 5, free),), demand)
        decision = scaling.decide(policy, observation, history, now)
        assert policy.min_replicas <= decision.pods <= policy.max_replicas
        assert decision.wake_after_s is None or decision.wake_after_s > 0
        assert decision == scaling.decide(policy, observation, history, now)
        if before is not None:
            is_fresh = not silent and all(p.state_age_s <= STALE_S for p in pods if p.ready)
            if decision.pods < before:
                assert is_fresh
                assert not policy.pause_scale_in
                assert decision.reason in (DecisionReason.PEAK_OF_HOLD_TIME, DecisionReason.IDLE)
            if decision.pods > before:
                assert decision.pods <= max(len(pods) + free, policy.min_replicas, 1)
        ready = [pod for pod in pods if pod.ready]
        # Where all that serve fell silent together and nobody waits, it is they that are not heard.
        is_cut_off = bool(ready) and all(p.state_age_s > STALE_S for p in ready) and not waiting
        if decision.limit is None and not (decision.is_blind or is_cut_off):
            assert decision.pods >= min(decision.figures.wanted, policy.max_replicas) or (
                decision.reason in (DecisionReason.IDLE, DecisionReason.STEADY)
                and not decision.figures.sessions
            )
        history, before = decision.history, decision.pods


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60))
def test_never_less_than_the_peak_of_the_hold_time(sessions: list[int]) -> None:
    run = Run(replace(POLICY, free_min=0, free_percent=0))
    recommendations: list[tuple[float, int]] = []
    pods = 1
    for count in sessions:
        shares = [count // pods + (index < count % pods) for index in range(pods)]
        decision = run.decide(*loads(*shares), after_s=10.0)
        recommendations.append((run.now, min(20, decision.figures.wanted)))
        assert decision.pods >= max(
            pods_wanted for at, pods_wanted in recommendations if at > run.now - 120.0
        )
        pods = decision.pods
