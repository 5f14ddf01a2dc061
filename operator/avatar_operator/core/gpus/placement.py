"""Assigns a GPU class to each new pod."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from avatar_operator.core.gpus import batch_size
from avatar_operator.core.gpus.pools import eligible
from avatar_operator.core.resources.placement import Placement, Strategy, WhenFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.pod import RuntimePod


def assign_classes(
    pools: Sequence[Pool],
    wanted: int,
    placement: Placement,
    current: Iterable[RuntimePod] = (),
) -> tuple[Pool, ...]:
    """Return the class of each new pod, as far as GPUs are free or can be added.

    `pools` are in the order of `pools.rank`. `current` are the pods that stay: the strategy
    cheapest minimizes the cost per session of these and the new pods together.
    """
    serving = eligible(pools, placement)
    priced = [pool for pool in serving if pool.cost_per_hour is not None]
    counts: dict[str, int] = {}
    if placement.strategy is Strategy.CHEAPEST:
        counts = _cheapest(priced, wanted, _bill(priced, current))
    left = wanted - sum(counts.values())
    for pool in serving:  # in order: all classes, or those of unknown cost
        taken = counts.get(pool.gpu_class, 0)
        more = min(left, pool.stock.free - taken)
        counts[pool.gpu_class] = taken + more
        left -= more
    pending = None
    if placement.when_full is WhenFull.CREATE_PENDING:
        pending = next((pool for pool in serving if pool.stock.is_known), None)
    placed: list[Pool] = []
    for pool in serving:
        placed += [pool] * counts[pool.gpu_class]
        if pool is pending:
            # A node autoscaler reacts to pending pods; they must name the labels of the new node.
            placed += [replace(pool, stock=pool.stock.with_new_nodes())] * left
    return tuple(placed)


_Bill = tuple[Decimal, int]  # cost per hour, sessions


def _cheapest(pools: Sequence[Pool], wanted: int, paid: _Bill) -> dict[str, int]:
    """Return the number of pods of each class with the lowest average cost per session.

    Filling the class with the cheapest session first is not optimal: once its GPUs are used, a
    small expensive class may cost less in total than a large one. Dinkelbach's algorithm for
    fractional programs is used: pods that minimize cost - p * sessions lower the price p of a
    session, until p does not change any more.
    """
    counts: dict[str, int] = {}
    price = Decimal("Infinity")
    while True:
        ordered = sorted(pools, key=lambda pool: _margin(pool, price))
        better: dict[str, int] = {}
        left = wanted
        for pool in ordered:
            better[pool.gpu_class] = min(left, pool.stock.free)
            left -= better[pool.gpu_class]
        cost, sessions = _sum(ordered, better, paid)
        if not sessions or cost / sessions >= price:
            return counts
        counts, price = better, cost / sessions


def _margin(pool: Pool, price: Decimal) -> tuple[Decimal, str]:
    cost, sessions = _price(pool)
    if price.is_infinite():
        return cost / sessions, pool.gpu_class
    return cost - price * sessions, pool.gpu_class


def _sum(pools: Iterable[Pool], counts: Mapping[str, int], paid: _Bill) -> _Bill:
    cost, sessions = paid
    for pool in pools:
        count = counts[pool.gpu_class]
        cost += count * _price(pool)[0]
        sessions += count * _price(pool)[1]
    return cost, sessions


def _bill(pools: Iterable[Pool], pods: Iterable[RuntimePod]) -> _Bill:
    prices = {pool.gpu_class: _price(pool)[0] for pool in pools}
    known = [pod for pod in pods if pod.gpu_class in prices]
    cost = sum((prices[pod.gpu_class] for pod in known), Decimal(0))
    return cost, sum(pod.sessions_per_pod for pod in known)


def _price(pool: Pool) -> _Bill:
    assert pool.cost_per_hour is not None
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    return pool.cost_per_hour, pool.outcome.sessions_per_pod
