"""What a flood of one tenant does to the others, in virtual time."""

from __future__ import annotations

from random import Random
from statistics import quantiles

import pytest

from avatar_gateway.core.fair_queue import FairQueue, Share

TENANTS = 1000
SLOTS = 6000
FLOOD = Share("flood", 1)


def _waits(seed: int, backlog: int, *, is_fair: bool = True) -> list[float]:
    """Return how long the callers of the other tenants wait while `backlog` callers of one wait.

    One slot becomes free about every 0.1 s. The others come at half that rate, with random weights.
    Without `is_fair`, all belong to one tenant, so that the queue is first in, first out.
    """
    random, queue = Random(seed), FairQueue()
    shares = [Share(f"t{n:03}", random.choice([1, 2, 5])) for n in range(TENANTS)]
    arrived_at: dict[str, float] = {}
    waits: list[float] = []
    number, flooding, now, next_arrival = 0, 0, 0.0, 0.0
    for _ in range(SLOTS):
        now += random.expovariate(10)
        while next_arrival <= now:
            number += 1
            caller = f"caller-{number}"
            arrived_at[caller] = next_arrival
            queue.join(caller, random.choice(shares) if is_fair else FLOOD)
            next_arrival += random.expovariate(5)
        while len(queue) - len(arrived_at) < backlog:
            flooding += 1
            queue.join(f"flood-{flooding}", FLOOD)
        served = queue.next()
        assert served is not None
        queue.grant(served)
        if served in arrived_at:
            waits.append(now - arrived_at.pop(served))
    return waits


@pytest.mark.parametrize("seed", range(3))
def test_a_flood_moves_the_waits_of_other_tenants_by_no_more_than_5_percent(seed: int) -> None:
    quiet, flooded = _waits(seed, 1), _waits(seed, 900)
    p99 = quantiles(quiet, n=100)[98], quantiles(flooded, n=100)[98]
    assert len(quiet) > SLOTS / 3
    assert p99[1] <= 1.05 * p99[0]


def test_first_in_first_out_would_not_keep_that_promise() -> None:
    quiet, flooded = _waits(0, 1, is_fair=False), _waits(0, 900, is_fair=False)
    assert quantiles(flooded, n=100)[98] > 10 * quantiles(quiet, n=100)[98]
