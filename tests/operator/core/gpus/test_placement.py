"""Which class each new pod gets, compared with trying every mix."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.gpus.batch_size import BatchPlan, LimitedBy, NoBatch
from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.gpus.placement import assign_classes
from avatar_operator.core.gpus.pools import Pool
from avatar_operator.core.resources.placement import Placement, Strategy, WhenFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.operator.conftest import Make

CASES = 3000


def pool(name: str, free: int, cost: str | None = None, sessions: int = 1) -> Pool:
    plan = BatchPlan(8, sessions, 25.0 * sessions, 5000, LimitedBy.KNEE, "")
    price = None if cost is None else Decimal(cost)
    return Pool(name, plan, ClassStock(name, 24000, free, free, ()), None, price)


def names(pools: Sequence[Pool], wanted: int, strategy: Strategy, when_full: WhenFull) -> list[str]:
    placement = Placement(strategy=strategy, when_full=when_full)
    return [chosen.gpu_class for chosen in assign_classes(pools, wanted, placement)]


@pytest.mark.parametrize("strategy", [Strategy.PREFERRED, Strategy.FASTEST])
def test_a_class_that_is_full_falls_through_to_the_next(strategy: Strategy) -> None:
    pools = [pool("a", 2), pool("b", 5)]
    assert names(pools, 4, strategy, WhenFull.FALL_THROUGH) == ["a", "a", "b", "b"]
    assert names(pools, 9, strategy, WhenFull.FALL_THROUGH) == ["a"] * 2 + ["b"] * 5


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_class_that_is_waited_for_is_the_only_one(strategy: Strategy) -> None:
    cannot = Pool("x", NoBatch("no"), ClassStock("x", 1, 9, 9, ()), None, Decimal(1))
    pools = [cannot, pool("a", 2, "1"), pool("b", 5, "9")]
    assert names(pools, 4, strategy, WhenFull.WAIT) == ["a", "a"]
    assert names([cannot], 4, strategy, WhenFull.WAIT) == []


def test_a_small_dear_pod_may_cost_less_in_all_than_a_large_one() -> None:
    pools = [pool("large", 1, "2.6", 13), pool("huge", 1, "3.5", 13), pool("small", 1, "0.45", 1)]
    cheapest = names(pools, 2, Strategy.CHEAPEST, WhenFull.FALL_THROUGH)
    assert cheapest == ["large", "small"]  # 0.218 a session; with huge it would be 0.235
    by_order = names(pools, 2, Strategy.PREFERRED, WhenFull.FALL_THROUGH)
    assert by_order == ["large", "huge"]


def test_classes_without_a_price_come_after_those_with_one() -> None:
    pools = [pool("priced", 1, "9"), pool("unknown", 5)]
    found = names(pools, 3, Strategy.CHEAPEST, WhenFull.FALL_THROUGH)
    assert found == ["priced", "unknown", "unknown"]
    assert names(pools[1:], 1, Strategy.CHEAPEST, WhenFull.FALL_THROUGH) == ["unknown"]


def test_the_pods_that_stay_are_part_of_the_mix(make: Make) -> None:
    pools = [pool("large", 2, "5", 40), pool("small", 2, "0.15", 1)]
    placement = Placement(strategy=Strategy.CHEAPEST)
    assert [p.gpu_class for p in assign_classes(pools, 1, placement)] == ["large"]
    dear = [make.pod(gpu_class="small", sessions_per_pod=1), make.pod(gpu_class="gone")]
    assert [p.gpu_class for p in assign_classes(pools, 1, placement, dear)] == ["large"]
    cheap = [make.pod(gpu_class="large", sessions_per_pod=400)]
    assert [p.gpu_class for p in assign_classes(pools, 1, placement, cheap)] == ["small"]


def cost_of(chosen: Sequence[Pool]) -> Decimal:
    """Return what a session costs on average."""
    costs = [item.cost_per_hour for item in chosen if item.cost_per_hour is not None]
    plans = [item.outcome for item in chosen if isinstance(item.outcome, BatchPlan)]
    return sum(costs, Decimal(0)) / sum(plan.sessions_per_pod for plan in plans)


def optimum(pools: Sequence[Pool], wanted: int) -> Decimal:
    """Try every mix of the pods that fit."""
    slots = [item for item in pools for _ in range(min(wanted, item.stock.free))]
    count = min(wanted, len(slots))
    ids = {tuple(sorted(mix)) for mix in itertools.combinations([id(s) for s in slots], count)}
    by_id = {id(item): item for item in pools}
    return min(cost_of([by_id[one] for one in mix]) for mix in ids)


def random_case(rng: random.Random) -> tuple[list[Pool], int]:
    pools = [
        pool(
            f"class-{index}",
            rng.randint(0, 3),
            str(Decimal(rng.randint(20, 500)) / 100),
            rng.randint(1, 15),
        )
        for index in range(rng.randint(1, 4))
    ]
    return pools, rng.randint(1, 6)


def test_the_cheapest_mix_is_as_cheap_as_the_best_of_all_mixes() -> None:
    rng = random.Random(20)
    excess: list[Decimal] = []
    for _ in range(CASES):
        pools, wanted = random_case(rng)
        free = sum(item.stock.free for item in pools)
        chosen = assign_classes(pools, wanted, Placement(strategy=Strategy.CHEAPEST))
        assert len(chosen) == min(wanted, free)
        if free:
            excess.append(cost_of(chosen) / optimum(pools, wanted) - 1)
    assert max(excess) <= Decimal("0.05")
    assert sum(excess) / len(excess) <= Decimal("0.001")


def test_pods_for_nodes_to_come_are_of_the_first_class_that_tells_its_labels() -> None:
    known = ClassStock("b", 24000, 0, 0, ((("nvidia.com/gpu.product", "B"),),))
    pools = [pool("a", 1), replace(pool("b", 0), stock=known), pool("c", 1)]
    pending = WhenFull.CREATE_PENDING
    assert names(pools, 2, Strategy.PREFERRED, pending) == ["a", "c"]  # what is free comes first
    assert names(pools, 5, Strategy.PREFERRED, pending) == ["a", "b", "b", "b", "c"]
    assert names(pools[:1], 5, Strategy.PREFERRED, pending) == ["a"]  # nobody knows what to add
