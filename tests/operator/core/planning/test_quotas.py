"""Quotas of tenants: never exceeded, shared fairly, and never at the cost of a live session."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling.inputs import ScalingContext
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner, quota_wishes, quotas
from avatar_operator.core.planning.quotas import Member, QuotaShare, TenantTerms
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.resources.tenant import Quota
from avatar_operator.core.status import conditions

if TYPE_CHECKING:
    from tests.operator.conftest import Make

ONE = Decimal(1)
NOW = 10_000.0


def member(name: str, wanted: int, held: int = 0, **changes: Any) -> Member:
    costs = changes.pop("costs", (ONE,) * held)
    return Member(ServiceKey("acme", name), wanted, costs, next_cost=ONE, **changes)


def test_a_quota_that_suffices_leaves_the_rest_to_everybody() -> None:
    division = quotas.divide([member("a", 2), member("b", 1)], Quota(gpus=8))
    assert division == quotas.Division((2, 1), 5, None)


def test_services_share_a_quota_by_their_weights_after_their_minimum() -> None:
    members = [member("a", 9, weight=2), member("b", 9), member("c", 9, minimum=3)]
    assert quotas.divide(members, Quota(gpus=9)) == quotas.Division((4, 2, 3), 0, None)


def test_pods_with_sessions_stay_beyond_a_quota_that_was_lowered() -> None:
    members = [member("a", 4, 4, locked=3), member("b", 2, 2, locked=0)]
    assert quotas.divide(members, Quota(gpus=2)) == quotas.Division((3, 0), 0, None)


def test_a_cost_limit_is_filled_with_what_it_pays_for() -> None:
    members = [replace(member("a", 3), next_cost=Decimal(5)), member("b", 9)]
    division = quotas.divide(members, Quota(cost_per_hour=Decimal("8.50")))
    assert division.pods == (1, 3)


def test_a_class_without_a_cost_gets_no_new_pod_under_a_cost_limit() -> None:
    members = [replace(member("a", 3, 1), next_cost=None), member("b", 2)]
    assert quotas.divide(members, Quota(cost_per_hour=Decimal(9))).pods == (1, 2)


members = st.builds(
    lambda name, wanted, held, locked, minimum, weight: member(
        name, wanted, held, locked=min(locked, held), minimum=minimum, weight=weight
    ),
    st.uuids().map(str),
    st.integers(0, 9),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(1, 3),
    st.integers(1, 4),
)
limits = st.builds(
    Quota,
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 20).map(Decimal),
)


@given(st.lists(members, min_size=1, max_size=6), limits)
def test_shares_stay_within_the_quota_and_keep_what_must_stay(
    found: list[Member], quota: Quota
) -> None:
    shares = quotas.divide(found, quota).pods
    locked = sum(each.locked for each in found)
    assert quotas.divide(found, quota).pods == shares
    assert all(got >= each.locked for got, each in zip(shares, found, strict=True))
    assert all(
        got <= max(each.locked, each.wanted) for got, each in zip(shares, found, strict=True)
    )
    for bound in (quota.gpus, quota.cost_per_hour):
        assert bound is None or sum(shares) <= max(bound, locked)


@given(st.lists(members, min_size=1, max_size=6), limits, st.data())
def test_steps_in_any_order_never_exceed_the_quota_and_settle(
    start: list[Member], quota: Quota, data: st.DataObject
) -> None:
    """Each step plans one service, as the operator does: it adds pods or gives idle ones back."""
    current = list(start)
    most = max(sum(len(each.costs) for each in current), quota.gpus or 0, 0)
    order = data.draw(st.lists(st.integers(0, len(current) - 1), max_size=30))
    for index in [*order, *(list(range(len(current))) * 8)]:
        share = quotas.share_of(index, current, quota)
        each = current[index]
        held = len(each.costs)
        price = share.cost_left if share.cost_left is not None else Decimal(10**6)
        grown = min(each.wanted, share.pods, held + min(share.new, max(0, int(price))))
        after = max(each.locked, grown) if grown < held else grown
        current[index] = replace(each, costs=(ONE,) * after)
        total = sum(len(one.costs) for one in current)
        assert current[index].locked <= after
        if after > held:
            assert quota.gpus is None or total <= quota.gpus
            assert quota.cost_per_hour is None or total <= quota.cost_per_hour
        assert quota.gpus is None or total <= most
    settled = [len(each.costs) for each in current]
    shares = quotas.divide(current, quota).pods
    wanted = [
        min(share, max(each.wanted, each.locked))
        for each, share in zip(current, shares, strict=True)
    ]
    assert settled == wanted


def terms(pods: int, new: int, **changes: Any) -> TenantTerms:
    quota = Quota(gpus=8)
    return TenantTerms("acme", share=QuotaShare(quota, pods, new, None, others=6, **changes))


@pytest.fixture
def two_of_five(make: Make) -> tuple[Any, planner.Observed]:
    observed = planner.Observed(
        nodes=(make.node(gpus=8),),
        uses=(),
        profiles=(make.profile(),),
        pods=(),
        states={},
        has_control_secret=True,
        tenant=terms(2, 2),
    )
    return make.service(replicas=5), observed


def test_a_fixed_number_of_pods_stops_at_the_quota_and_says_why(two_of_five: Any) -> None:
    service, observed = two_of_five
    plan = planner.plan(service, observed, planner.Options("image"), NOW)
    assert plan.desired == 2
    limited = [f for f in conditions.find(service, plan, {}) if f.reason.value == "TenantQuota"]
    assert [finding.message for finding in limited] == [
        "wants 5 pods, may have 2; AvatarTenant acme may use 8 GPUs (spec.limits.gpus), "
        "its other services use 6"
    ]
    assert quota_wishes.wish(service, plan).wanted == 5
    assert quota_wishes.is_limited(service, plan)


def test_a_service_that_autoscales_stops_at_the_quota_too(make: Make, two_of_five: Any) -> None:
    _, observed = two_of_five
    service = make.service(autoscaling={"minReplicas": 4, "maxReplicas": 9})

    plan = planner.plan(
        service, replace(observed, scaling_context=ScalingContext()), planner.Options("image"), NOW
    )
    assert plan.desired == 2
    (finding,) = [
        f for f in conditions.find(service, plan, {}) if f.condition.value == "ScalingLimited"
    ]
    assert finding.reason.value == "TenantQuota"
    assert (
        "AvatarTenant acme may use 8 GPUs (spec.limits.gpus), its other services use 6"
        in finding.message
    )


def test_headroom_follows_the_session_limit_of_the_tenant(make: Make, two_of_five: Any) -> None:
    _, observed = two_of_five
    service = make.service(autoscaling={"minReplicas": 1, "maxReplicas": 9})
    tenant = TenantTerms("acme", most_sessions=3)
    calm = replace(observed, tenant=tenant, scaling_context=ScalingContext(at=1.0))
    first = planner.plan(service, calm, planner.Options("image"), NOW)
    assert first.scaling is not None
    history = first.scaling.decision.history
    busy = ScalingContext(Demand(arrived=90, gateways=1), history, at=10.0)

    def headroom(tenant: TenantTerms | None) -> int:
        seen = replace(observed, tenant=tenant, scaling_context=busy)
        plan = planner.plan(service, seen, planner.Options("image"), NOW)
        assert plan.decision is not None
        return plan.decision.figures.headroom

    assert headroom(tenant) == 3
    assert headroom(None) > 100


def test_pods_beyond_a_share_are_given_back_only_without_a_session(
    make: Make, two_of_five: Any
) -> None:
    service, observed = two_of_five
    pods = [make.pod(f"p{n}") for n in range(3)]
    pods = [replace(pod, spec_hash=hash_spec(service, "image", "")) for pod in pods]
    states = {"uid-p0": make.state(1), "uid-p1": make.state(0), "uid-p2": make.state(1)}
    seen = replace(observed, pods=tuple(pods), states=states, tenant=terms(2, 0))
    plan = planner.plan(service, seen, planner.Options("image"), NOW)
    drained = [action.name for action in plan.actions if isinstance(action, planner.DrainPod)]
    assert drained == ["p1"]


def test_a_rollout_makes_room_within_the_quota(make: Make, two_of_five: Any) -> None:
    service, observed = two_of_five
    pods = tuple(make.pod(f"p{n}", spec_hash="old") for n in range(2))
    states = {pod.uid: make.state(0) for pod in pods}
    seen = replace(observed, pods=pods, states=states, tenant=terms(2, 0))
    plan = planner.plan(service, seen, planner.Options("image"), NOW)
    assert plan.new_pods == ()
    assert plan.over_quota == 1


def test_classes_that_the_tenant_lacks_get_no_pod(make: Make, two_of_five: Any) -> None:
    service, observed = two_of_five
    restricted = TenantTerms("acme", gpu_classes=frozenset({"l4"}))
    plan = planner.plan(
        service, replace(observed, tenant=restricted), planner.Options("image"), NOW
    )
    assert plan.new_pods == ()
    (pool,) = plan.pools
    assert not pool.can_serve
    finding = next(f for f in conditions.find(service, plan, {}) if f.condition.value == "Ready")
    assert "spec.access.gpuClasses of AvatarTenant acme lacks it" in finding.message
