"""Chooses the GPU class of each pod that is to be created."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from avatar_operator.core.gpus import batch_size
from avatar_operator.core.resources.service import Placement, Strategy, WhenFull

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
    """Return the class of each of the wanted pods, as far as GPUs are free or may come.

    `pools` are in the order of `pools.rank`. `current` are the pods that stay:
    the cheapest mix is the one that is cheapest together with them.
    """
    serving = [pool for pool in pools if pool.can_serve]
    if placement.when_full is WhenFull.WAIT:
        serving = serving[:1]
    priced = [pool for pool in serving if pool.cost_per_hour is not None]
    counts: dict[str, int] = {}
    if placement.strategy is Strategy.CHEAPEST:
        counts = _cheapest(priced, wanted, _bill(priced, current))
    left = wanted - sum(counts.values())
    for pool in serving:  # in order: all of them, or those whose price is unknown
        taken = counts.get(pool.gpu_class, 0)
        more = min(left, pool.stock.free - taken)
        counts[pool.gpu_class] = taken + more
        left -= more
    if placement.when_full is WhenFull.CREATE_PENDING and left:
        # Whoever adds nodes sees pods that wait for one; it must be told which labels to bring.
        for pool in [pool for pool in serving if pool.stock.selectors][:1]:
            counts[pool.gpu_class] += left
    return tuple(pool for pool in serving for _ in range(counts[pool.gpu_class]))


_Bill = tuple[Decimal, int]  # cost per hour, sessions


def _cheapest(pools: Sequence[Pool], wanted: int, paid: _Bill) -> dict[str, int]:
    """Return the number of pods of each class whose sessions cost least on average.

    Filling the class with the cheapest session first can be far off: once its
    GPUs are used up, a small dear one may cost less in all than a large one.
    So the price p of a session is improved (Dinkelbach): pods that minimise
    cost - p * sessions bring it down, until none do.
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
