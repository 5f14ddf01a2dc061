"""Tests of what bounds the number of pods."""

from __future__ import annotations

from decimal import Decimal
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling import limits
from avatar_operator.core.autoscaling.capacity import Offer, Pod
from avatar_operator.core.autoscaling.limits import Limit, ScalingRateLimit
from avatar_operator.core.autoscaling.observation import TenantBound
from avatar_operator.core.resources.autoscaling import Autoscaling, Rate

ONE = Decimal(1)


def pods(*costs: Decimal | None, **changes: Any) -> list[Pod]:
    fields = {"sessions": 0, "ready": True, "draining": False, "age_s": 9.0, "state_age_s": 0.1}
    return [Pod(f"p{i}", 5, **{**fields, **changes}, cost=cost) for i, cost in enumerate(costs)]


def bounds_of(
    max_cost: str | None,
    there: list[Pod],
    *offers: Offer,
    leaving: Decimal = Decimal(0),
    **policy: Any,
) -> tuple[int, Limit]:
    cost = None if max_cost is None else Decimal(max_cost)
    wanted = Autoscaling(
        **{"min_replicas": 1, "max_replicas": 20, **policy}, max_cost_per_hour=cost
    )
    bounds = limits.find_bounds(wanted, there, offers, leaving)
    return bounds.maximum, bounds.limit


def test_the_smallest_bound_is_the_one_that_is_named() -> None:
    dear = Offer("a", 5, 9, Decimal(3))
    assert bounds_of(None, pods(ONE), Offer("a", 5, 30)) == (20, Limit.MAX_REPLICAS)
    assert bounds_of(None, pods(ONE), Offer("a", 5, 2)) == (3, Limit.FREE_GPUS)
    assert bounds_of("100", pods(ONE), Offer("a", 5, 2, ONE)) == (3, Limit.FREE_GPUS)
    assert bounds_of("12.50", pods(Decimal(3)), dear) == (4, Limit.MAX_COST)


def test_a_class_has_its_turn_when_the_gpus_of_the_one_before_are_used_up() -> None:
    first, second = Offer("a", 5, 2, Decimal(2)), Offer("b", 5, 9, ONE)
    assert bounds_of("6.5", [], first, second) == (4, Limit.MAX_COST)
    assert bounds_of("3.5", [], first, second) == (1, Limit.MAX_COST)  # another a is not paid


def test_a_class_without_a_cost_gets_no_pod_and_is_named() -> None:
    there, unpriced = pods(None), Offer("a", 5, 9)
    assert bounds_of("5", there, unpriced) == (1, Limit.COST_UNKNOWN)
    assert bounds_of("5", there, unpriced, Offer("b", 5, 2, ONE)) == (3, Limit.COST_UNKNOWN)
    assert bounds_of("2", there, unpriced, Offer("b", 5, 9, ONE)) == (3, Limit.MAX_COST)


def test_pods_that_leave_keep_new_ones_away_and_send_nobody_off() -> None:
    offer = Offer("a", 5, 9, ONE)
    assert bounds_of("5", pods(ONE, ONE), offer, leaving=ONE) == (4, Limit.MAX_COST)
    assert bounds_of("2", pods(ONE, ONE), offer, leaving=Decimal(3)) == (2, Limit.MAX_COST)


def test_what_is_over_the_cost_goes_whatever_the_least_number_is() -> None:
    policy = Autoscaling(4, 20, max_cost_per_hour=Decimal("2.5"))
    there = pods(ONE, ONE, ONE, sessions=2)
    bounds = limits.find_bounds(policy, there, (), Decimal(0))
    assert (bounds.minimum, bounds.maximum, bounds.clamp_to_policy(3), bounds.clamp(3)) == (
        2,
        2,
        2,
        2,
    )


def test_the_costs_of_the_pods_that_stay_longest_count_first() -> None:
    # The busy pod stays, whatever the order of the pods, and two idle ones cost too much beside it.
    policy = Autoscaling(1, 20, max_cost_per_hour=Decimal(3))
    idle, busy = pods(ONE, ONE), pods(Decimal(3), sessions=2)
    for there in (idle + busy, busy + idle):
        assert limits.find_bounds(policy, there, (), Decimal(0)).maximum == 1


COSTS = st.one_of(st.none(), st.decimals("0.01", 9, places=2))


@given(
    st.lists(COSTS, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), COSTS), max_size=3),
    st.decimals("0.01", 40, places=2),
)
def test_no_new_pod_is_let_in_that_is_not_paid(
    there: list[Decimal | None], free: list[tuple[int, Decimal | None]], max_cost: Decimal
) -> None:
    offers = [Offer(f"c{i}", 5, gpus, cost) for i, (gpus, cost) in enumerate(free)]
    policy = Autoscaling(0, 1000, zero_after_s=1.0, max_cost_per_hour=max_cost)
    bounds = limits.find_bounds(policy, pods(*there), offers, Decimal(0))
    known = [cost for cost in there if cost is not None]
    new = [cost for gpus, cost in free if cost is not None for _ in range(gpus)]
    more = max(0, bounds.maximum - len(there))
    if more:
        assert sum(known) + sum(new[:more]) <= max_cost
    elif sum(known) > max_cost:
        in_turn = [cost or Decimal(0) for cost in there]  # all are worth the same
        assert sum(in_turn[: bounds.maximum]) <= max_cost < sum(in_turn[: bounds.maximum + 1])
    assert bounds.clamp_to_policy(10**6) <= 1000


def walk(rate: Rate, *wanted: tuple[float, int]) -> list[int]:
    limit, decided = ScalingRateLimit.starting(0.0, 2), []
    for now, count_wanted in wanted:
        count = limit.limit(count_wanted, now, rate)
        limit = limit.with_decision(now, count, rate)
        decided.append(count)
    return decided


def test_up_and_down_go_no_further_than_the_rate_within_its_period() -> None:
    rate = Rate(3, 2, 60.0)
    assert walk(rate, (1, 9), (30, 9), (61, 9), (62, 9), (121, 9)) == [5, 5, 8, 8, 9]
    assert walk(Rate(None, 2, 60.0), (1, 9), (70, 1), (80, 1), (131, 1)) == [9, 7, 7, 5]
    assert walk(Rate(1, None, 60.0), (1, 9), (2, 1)) == [3, 1]


def test_when_the_rate_lets_more_through_is_known() -> None:
    rate = Rate(3, None, 60.0)
    limit = ScalingRateLimit.starting(0.0, 2)
    assert limit.relaxes_after_s(5.0, rate) == inf
    limit = limit.with_decision(5.0, 5, rate)
    assert limit.relaxes_after_s(25.0, rate) == 40.0
    assert limit.limit(9, 65.0, rate) == 8


def test_without_a_rate_nothing_is_kept() -> None:
    limit = ScalingRateLimit.starting(0.0, 2)
    assert limit.limit(9, 1.0, None) == 9
    assert limit.with_decision(1.0, 9, None) == ScalingRateLimit.starting(1.0, 9)
    assert limit.with_decision(1.0, 2, None) is limit


@given(
    st.builds(Rate, st.integers(1, 4), st.integers(1, 4), st.just(60.0)),
    st.lists(st.tuples(st.floats(0.5, 50), st.integers(0, 30)), min_size=1, max_size=40),
)
def test_no_period_sees_more_than_the_rate(rate: Rate, steps: list[tuple[float, int]]) -> None:
    limit, now, timeline = ScalingRateLimit.starting(0.0, 5), 0.0, [(0.0, 5)]
    for after_s, count_wanted in steps:
        now += after_s
        count = limit.limit(count_wanted, now, rate)
        limit = limit.with_decision(now, count, rate)
        lately = [c for at, c in timeline if at > now - 60.0]
        lately += [c for at, c in timeline if at <= now - 60.0][-1:]
        assert rate.up_pods is not None
        assert rate.down_pods is not None
        assert max(lately) - rate.down_pods <= count <= min(lately) + rate.up_pods or (
            count == timeline[-1][1]
        )
        timeline.append((now, count))


@pytest.mark.parametrize(
    ("least", "zero_after_s", "kept"), [(0, None, 1), (0, 9.0, 0), (3, None, 3)]
)
def test_the_last_pod_stays_unless_a_time_is_named(
    least: int, zero_after_s: float | None, kept: int
) -> None:
    policy = Autoscaling(least, 9, zero_after_s=zero_after_s)
    assert limits.find_bounds(policy, [], [Offer("a", 5, 9)], Decimal(0)).clamp(0) == kept


def test_pods_that_are_paid_for_leave_the_bounds_of_the_policy_alone() -> None:
    policy = Autoscaling(1, 20, max_cost_per_hour=Decimal(3))
    bounds = limits.find_bounds(policy, pods(ONE, ONE, ONE), (), Decimal(0))
    assert (bounds.policy_maximum, bounds.clamp_to_policy(10)) == (20, 10)


def test_the_pods_that_are_kept_under_a_maximum_cost_are_those_that_scale_down_last() -> None:
    dear, cheap = pods(Decimal(3), sessions=5), pods(ONE, ONE)
    assert bounds_of("3", [*cheap, *dear], Offer("a", 5, 9, ONE)) == (1, Limit.MAX_COST)
    assert bounds_of("4", [*cheap, *dear], Offer("a", 5, 9, ONE)) == (2, Limit.MAX_COST)


@pytest.mark.parametrize(
    ("tenant", "expected"),
    [
        (TenantBound(4, 9), (4, Limit.TENANT_QUOTA)),
        (TenantBound(9, 1), (3, Limit.TENANT_QUOTA)),
        (TenantBound(9, 9, Decimal("2.5")), (4, Limit.TENANT_QUOTA)),
        (TenantBound(9, 9, Decimal(-1)), (2, Limit.TENANT_QUOTA)),
        (TenantBound(9, 9, Decimal(99)), (7, Limit.FREE_GPUS)),
        (TenantBound(1, 0), (1, Limit.TENANT_QUOTA)),
    ],
    ids=["share", "left", "cost", "overspent", "enough", "less than exists"],
)
def test_the_quota_of_a_tenant_bounds_everything(
    tenant: TenantBound, expected: tuple[int, Limit]
) -> None:
    policy = Autoscaling(min_replicas=5, max_replicas=20)
    offers = [Offer("a", 5, 5, ONE)]
    found = limits.find_bounds(policy, pods(ONE, ONE), offers, Decimal(0), tenant)
    assert (found.maximum, found.limit) == expected
    assert found.minimum <= found.maximum
    assert found.policy_minimum <= found.maximum
    assert (found.policy_maximum < 2) == (tenant.pods < 2)


@pytest.mark.parametrize("cost_left", [None, Decimal(99)], ids=["no cost", "cost"])
def test_a_full_cluster_is_no_limit_of_the_tenant(cost_left: Decimal | None) -> None:
    """The minimum stays, so that the service says which GPUs it lacks."""
    policy, offers = Autoscaling(min_replicas=2, max_replicas=9), [Offer("a", 5, 0, ONE)]
    tenant = TenantBound(3, 3, cost_left)
    found = limits.find_bounds(policy, [], offers, Decimal(0), tenant)
    assert (found.minimum, found.limit) == (2, Limit.FREE_GPUS)


def test_a_full_quota_is_the_limit_also_in_a_full_cluster() -> None:
    policy, offers = Autoscaling(min_replicas=2, max_replicas=9), [Offer("a", 5, 0, ONE)]
    found = limits.find_bounds(policy, [], offers, Decimal(0), TenantBound(0, 0))
    assert (found.minimum, found.maximum, found.limit) == (0, 0, Limit.TENANT_QUOTA)
    policy = Autoscaling(min_replicas=0, max_replicas=0)  # a larger quota would not help either
    found = limits.find_bounds(policy, [], offers, Decimal(0), TenantBound(0, 0))
    assert found.limit is Limit.MAX_REPLICAS


def test_a_cost_of_the_tenant_pays_for_the_first_class_before_the_next() -> None:
    offers = [Offer("a", 5, 2, Decimal(2)), Offer("b", 5, 9, ONE), Offer("c", 5, 9)]
    tenant = TenantBound(20, 20, Decimal(6))
    found = limits.find_bounds(Autoscaling(0, 20), [], offers, Decimal(0), tenant)
    assert (found.maximum, found.limit) == (4, Limit.TENANT_QUOTA)
