"""How a share limits the plan of a service, and which pods the service gives back."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus.batch_size import BatchPlan, NoBatch
from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.gpus.pools import Pool
from avatar_operator.core.planning.failures import Failure
from avatar_operator.core.planning.fleet import Fleet
from avatar_operator.core.planning.sharing import fair_limits
from avatar_operator.core.planning.sharing.shares import Share
from avatar_operator.core.resources.placement import WhenFull

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service

SMALL, LARGE = "rtx-4090", "a100-80gb"
NOW = 1000.0


def pool(gpu_class: str, free: int) -> Pool:
    stock = ClassStock(gpu_class, 24564, 9, free, ())
    return Pool(gpu_class, NoBatch("not of interest"), stock, None)


def fleet(*pods: RuntimePod, outdated: tuple[RuntimePod, ...] = ()) -> Fleet:
    return Fleet(tuple(pods), outdated, (), (), ())


def pending(make: Make) -> Service:
    return make.service(placement={"whenFull": "createPending"})


def test_only_a_contested_service_stops_to_wait_for_nodes(make: Make) -> None:
    service = pending(make)
    contested = Share({}, contested=True)
    restricted = fair_limits.restrict(service, contested)
    assert restricted.placement.when_full is WhenFull.FALL_THROUGH
    assert fair_limits.restrict(service, None) is service
    assert fair_limits.restrict(service, Share({})) is service
    waits = make.service(placement={"whenFull": "wait"})
    assert fair_limits.restrict(waits, contested) is waits


def test_a_share_caps_the_free_gpus_by_what_the_service_may_add(make: Make) -> None:
    parts = {("n1", SMALL): 0}
    pods = fleet(
        make.pod("held"),
        make.pod("waits", node=""),
        make.pod("elsewhere", node="n9"),
        make.pod("large", gpu_class=LARGE),
    )

    def free(allowed: int, had: int) -> int:
        share = Share({SMALL: allowed}, parts=parts)
        (capped,) = fair_limits.cap((pool(SMALL, had),), pods, share)
        return capped.stock.free

    assert [free(allowed, 4) for allowed in (0, 1, 2, 3, 5, 6, 7)] == [0, 0, 0, 1, 3, 4, 4]
    pools = (pool(SMALL, 4), pool(LARGE, 4))
    assert fair_limits.cap(pools, pods, None) is pools
    assert fair_limits.cap(pools, pods, Share({LARGE: 0}, parts=parts))[0] is pools[0]


PARTS = {("n1", SMALL): 0, ("n2", SMALL): 1}


def names(pods: tuple[RuntimePod, ...]) -> list[str]:
    return [pod.name for pod in pods]


def test_as_many_pods_are_given_back_as_the_share_does_not_keep(make: Make) -> None:
    pods = [make.pod(f"p{number}") for number in range(4)]
    elsewhere = make.pod("p9", node="n2")
    states = {pod.uid: make.state(0) for pod in [*pods, elsewhere]}
    service = make.service()
    all_pods = fleet(*pods, elsewhere)

    def given_back(keep: int) -> list[str]:
        share = Share({}, keep={0: keep}, parts=PARTS)
        return names(fair_limits.surplus(service, all_pods, (), states, share))

    assert [given_back(keep) for keep in (5, 4, 3, 1)] == [[], [], ["p0"], ["p0", "p1", "p2"]]
    assert fair_limits.surplus(service, all_pods, (), states, None) == ()


def test_pods_that_leave_in_any_case_are_given_back_first(make: Make) -> None:
    busy, ready, starting = make.pod("a"), make.pod("b"), make.pod("c", ready=False)
    created = make.pod("d", ready=False, running=False)
    outdated = make.pod("z", spec_hash="old")
    everything = fleet(busy, ready, starting, created, outdated=(outdated,))
    states = {pod.uid: make.state(0) for pod in (ready, starting, outdated)}
    states[busy.uid] = make.state(1)
    share = Share({}, keep={0: 0}, parts=PARTS)
    found = fair_limits.surplus(make.service(), everything, (), states, share)
    assert names(found) == ["z", "d", "c", "b"]


def test_pods_that_wait_for_a_contested_gpu_are_given_back(make: Make) -> None:
    waiting = [make.pod(f"w{number}", node="", running=False) for number in range(3)]
    bound = make.pod("bound")
    states = {bound.uid: make.state(0)}
    everything = fleet(*waiting, bound)

    def given_back(allowed: int, *, contested: bool = True) -> list[str]:
        share = Share({SMALL: allowed, LARGE: 0}, contested=contested, parts=PARTS)
        return names(fair_limits.surplus(make.service(), everything, (), states, share))

    assert [given_back(allowed) for allowed in (5, 4, 3, 2, 0)] == [
        [], [], ["w0"], ["w0", "w1"], ["w0", "w1", "w2"],
    ]  # fmt: skip
    assert given_back(0, contested=False) == []


@pytest.mark.parametrize(
    "spec",
    [{"paused": True}, {"freeze": True}, {"pause_scale_in": True}],
    ids=lambda spec: next(iter(spec)),
)
def test_annotations_forbid_to_give_back(make: Make, spec: dict[str, Any]) -> None:
    service = make.service(autoscaling={"minReplicas": 1, "maxReplicas": 4})
    assert not fair_limits.keeps_all(service)
    policy = service.autoscaling
    assert policy is not None
    if "paused" in spec:
        service = replace(service, paused=True)
    else:
        service = replace(service, autoscaling=replace(policy, **spec))
    assert fair_limits.keeps_all(service)
    pod = make.pod()
    share = Share({}, keep={0: 0}, parts=PARTS)
    states = {pod.uid: make.state(0)}
    assert fair_limits.surplus(service, fleet(pod), (), states, share) == ()
    assert not fair_limits.keeps_all(make.service())


def wanted(scenario: Scenario) -> tuple[int, int]:
    demand = fair_limits.demand(scenario.service, scenario.plan(NOW), NOW)
    return demand.wanted, demand.has


def test_a_spec_that_no_pod_has_proven_wants_one_gpu(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=5, gpus=0)
    assert wanted(scenario) == (1, 0)
    scenario = scenarios(replicas=5, gpus=3)
    assert wanted(scenario) == (1, 0)


def test_a_proven_spec_wants_all_its_pods(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=5, gpus=2)
    scenario.add("p0", make.state(1))
    assert wanted(scenario) == (5, 1)
    scenario.service = replace(scenario.service, replicas=1)
    assert wanted(scenario) == (1, 1)


def test_a_paused_service_wants_no_more_than_it_has(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=5, gpus=2)
    scenario.add("p0", make.state(1))
    scenario.service = replace(scenario.service, paused=True)
    assert wanted(scenario) == (1, 1)


def test_the_demand_has_the_fields_of_the_service(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(
        replicas=2,
        weight=7,
        template={"priorityClassName": "gold"},
        placement={
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
    )
    scenario.nodes = [make.node(gpus=2, labels={**make.node().labels, "pool": "a"})]
    demand = fair_limits.demand(scenario.service, scenario.plan(NOW), NOW)
    assert (demand.key, demand.weight, demand.minimum) == (scenario.service.key, 7, 1)
    assert (demand.priority_class, demand.created) == ("gold", scenario.service.created)
    assert demand.classes == (SMALL,)
    assert demand.placement.node_selector == (("pool", "a"),)
    assert [each.key for each in demand.placement.tolerations] == ["k"]
    assert not demand.keeps_all


@pytest.mark.parametrize(("low", "minimum"), [(0, 1), (1, 1), (3, 3)])
def test_the_minimum_is_at_least_one(scenarios: Scenarios, low: int, minimum: int) -> None:
    scenario = scenarios(autoscaling={"minReplicas": low, "maxReplicas": 4}, gpus=4)
    demand = fair_limits.demand(scenario.service, scenario.plan(NOW), NOW)
    assert demand.minimum == minimum


def test_a_pod_that_waits_for_a_node_has_no_gpu(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, gpus=2, placement={"whenFull": "createPending"})
    scenario.add("p0", make.state(1))
    scenario.add("p1", node="", running=False, ready=False)
    assert wanted(scenario) == (2, 1)
    scenario.service = replace(
        scenario.service,
        placement=replace(scenario.service.placement, when_full=WhenFull.FALL_THROUGH),
    )
    assert wanted(scenario) == (2, 2)


@pytest.mark.parametrize(("after_s", "classes"), [(299.0, ()), (300.0, (SMALL,))])
def test_a_class_is_demanded_again_five_minutes_after_its_failure(
    scenarios: Scenarios, make: Make, after_s: float, classes: tuple[str, ...]
) -> None:
    scenario = scenarios(replicas=2, gpus=2)
    plan = scenario.plan(NOW)
    rejected = Failure(scenario.hash, SMALL, 1, 1, NOW - after_s, 2, "p0", "no")
    general = replace(rejected, gpu_class="")
    for failures, expected in (((rejected,), classes), ((general,), (SMALL,))):
        changed = replace(plan, failures=failures)
        demand = fair_limits.demand(scenario.service, changed, NOW)
        assert demand.classes == expected


@pytest.mark.parametrize(("after_s", "count"), [(299.0, 1), (300.0, 5)])
def test_a_spec_that_failed_wants_no_more_than_it_has_for_five_minutes(
    scenarios: Scenarios, make: Make, after_s: float, count: int
) -> None:
    scenario = scenarios(replicas=5, gpus=1)
    scenario.add("p0", make.state(1))
    failed = Failure(scenario.hash, "", 1, 1, NOW - after_s, 2, "p1", "no")
    plan = replace(scenario.plan(NOW), failures=(failed,))
    assert fair_limits.demand(scenario.service, plan, NOW).wanted == count


def test_shares_are_equal_whatever_their_cells_are() -> None:
    """Cells are numbered anew by each computation, and an equal share wakes no service."""
    plain = Share({SMALL: 1}, keep={0: 1})
    numbered = Share({SMALL: 1}, keep={0: 1}, parts=PARTS, cells=(0,), holders=({},))
    assert plain == numbered
    assert plain != Share({SMALL: 1}, keep={0: 1}, contested=True)
    assert "parts" not in repr(numbered)


@pytest.mark.parametrize(
    ("max_cost", "costs", "count"),
    [
        ("10", ("2", "3"), 2),  # one pod of class `a` costs 2; 8 remain, and 3 is the highest
        ("11", ("2", "3"), 3),
        ("10.99", ("2", "3"), 2),
        ("1", ("2", "3"), 0),
        ("10", ("2", None), 4),
        ("10", (None, None), 0),
        ("10", (None, "5"), 2),
    ],
)
def test_the_maximum_cost_allows_pods_at_the_highest_price(
    make: Make, max_cost: str, costs: tuple[str | None, str | None], count: int
) -> None:
    serves: Any = object.__new__(BatchPlan)
    pools = [
        replace(
            pool(name, 1), outcome=serves, cost_per_hour=None if cost is None else Decimal(cost)
        )
        for name, cost in zip("ab", costs, strict=True)
    ]
    pools.append(replace(pool("unusable", 1), cost_per_hour=Decimal(100)))
    plan: Any = SimpleNamespace(pools=pools, fleet=fleet(make.pod(gpu_class="a")))
    assert fair_limits._affordable(plan, Decimal(max_cost)) == count
    leaving = Fleet((), (), (), (make.pod(gpu_class="a"),), ())
    plan = SimpleNamespace(pools=pools, fleet=leaving)
    assert fair_limits._affordable(plan, Decimal(max_cost)) == count
