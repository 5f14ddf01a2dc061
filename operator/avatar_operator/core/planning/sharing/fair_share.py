"""Shares out GPUs that several services want and that do not suffice for all of them.

GPUs are counted in cells: a cell is a set of GPUs that are equal for every service. The shares are
filled one GPU at a time:

1. Pods that must stay keep their GPUs.
2. Every service gets its minimum. Services of tenants with a higher priority come first, then
   services of a higher priority.
3. Further GPUs go to tenants of a higher priority first. Among equal ones, each GPU goes to the
   group with the fewest GPUs for its weight, and in the group to the service with the fewest for
   its weight. A group is the services that belong to one tenant; a service that belongs to none is
   a group of its own. The result is weighted max-min fair between the groups, and between the
   services of each group: no share can grow without reducing one that is as small or smaller.

A service that cannot use any free cell may still get a GPU: another service moves to a different
cell. The search for such moves is a shortest augmenting path of a minimum-cost flow, in which the
GPU of a ready pod of the service costs nothing, that of another pod of it 1 and any other GPU 2.
The result therefore moves as few pods as possible, those that are not ready first, and a cluster in
which every service holds its share does not change.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from avatar_operator.core.resources.service import ServiceKey


class Group(NamedTuple):
    """A tenant whose services share GPUs as one."""

    name: str
    weight: int = 1
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The GPUs that a service wants, and those that it holds."""

    key: ServiceKey
    wanted: int
    """GPUs in all."""
    cells: tuple[int, ...]
    """The cells that it can use, the preferred one first."""
    minimum: int = 1
    weight: int = 1
    priority: int = 0
    created: str = ""
    """Creation time in RFC 3339; of equal services, the older one comes first."""
    group: Group | None = None
    """The tenant that it belongs to; None: it is a group of its own."""
    held: Mapping[int, int] = field(default_factory=dict)
    """Its pods, by cell."""
    locked: Mapping[int, int] = field(default_factory=dict)
    """Those of `held` that must stay, because they may have sessions."""
    ready: Mapping[int, int] = field(default_factory=dict)
    """Those of `held` that take sessions."""

    def turn(self, gpus: int, of_group: int = 0) -> _Turn:
        """Return when the service gets one more GPU if it has `gpus`; the lowest comes first.

        `of_group` are the GPUs of all services of its group.
        """
        beyond = gpus >= self.minimum
        rank = 0 if beyond else -self.priority
        filled = gpus / self.weight
        if self.group is None:
            group = _GroupTurn(0, filled, self.weight)
        else:
            tenant = self.group
            group = _GroupTurn(-tenant.priority, of_group / tenant.weight, tenant.weight)
        return _Turn(
            beyond,
            group.rank,
            rank,
            group.filled,
            group.weight,
            filled,
            self.weight,
            self.created,
            self.key,
        )


class _GroupTurn(NamedTuple):
    rank: int
    filled: float
    weight: int


class _Turn(NamedTuple):
    beyond_minimum: bool
    group_rank: int
    rank: int
    group_filled: float
    group_weight: int
    filled: float
    """GPUs for each unit of weight."""
    weight: int
    """The share of a light service grows more with one GPU, so it comes first."""
    created: str
    key: ServiceKey


Share = dict[int, int]
"""The GPUs of a service, by cell."""


def share_out(claims: Sequence[Claim], capacity: Sequence[int]) -> list[Share]:
    """Return the share of each claim; `capacity` has the number of GPUs of each cell.

    The capacity includes the GPUs that the claims hold.
    """
    filling = _Filling(claims, capacity)
    totals = [sum(claim.locked.values()) for claim in claims]
    groups = GroupTotals(claims, totals)
    turns = [
        (claim.turn(totals[index], groups.of(claim)), index)
        for index, claim in enumerate(claims)
        if totals[index] < claim.wanted
    ]
    heapq.heapify(turns)
    while turns:
        turn, index = turns[0]
        claim = claims[index]
        current = claim.turn(totals[index], groups.of(claim))
        if current > turn:  # its group got a GPU meanwhile: turns only become later
            heapq.heapreplace(turns, (current, index))
            continue
        if not filling.add(index):
            heapq.heappop(turns)  # it cannot get more later either
            continue
        totals[index] += 1
        groups.add(claim, 1)
        if totals[index] < claim.wanted:
            turn = claim.turn(totals[index], groups.of(claim))
            heapq.heapreplace(turns, (turn, index))
        else:
            heapq.heappop(turns)
    return filling.shares


class GroupTotals:
    """The GPUs of each group."""

    def __init__(self, claims: Sequence[Claim], totals: Sequence[int]) -> None:
        """`totals` are the GPUs of each claim."""
        self._totals: Counter[Group] = Counter()
        for claim, total in zip(claims, totals, strict=True):
            self.add(claim, total)

    def of(self, claim: Claim) -> int:
        """Return the GPUs of the group of a claim; 0 if it has none."""
        return 0 if claim.group is None else self._totals[claim.group]

    def add(self, claim: Claim, gpus: int) -> None:
        """Count more GPUs for the group of a claim."""
        if claim.group is not None:
            self._totals[claim.group] += gpus


_HELD, _NEW = 1, 2
"""What it costs to give a service the GPU of its pod that is not ready, or one that it lacks."""


class _Filling:
    """The shares while they grow."""

    def __init__(self, claims: Sequence[Claim], capacity: Sequence[int]) -> None:
        self._claims = claims
        self.shares: list[Share] = [dict(claim.locked) for claim in claims]
        self._free = list(capacity)
        for claim in claims:
            for cell, count in claim.locked.items():
                self._free[cell] -= count
        self._movable: list[set[int]] = [set() for _ in capacity]  # claims with a movable GPU
        self._exhausted: set[int] = set()  # no GPU can be made free in these cells

    def add(self, index: int) -> bool:
        """Give a service one more GPU, and return whether that is possible."""
        cost = {cell: self._cost(index, cell) for cell in self._claims[index].cells}
        least = min(cost.values(), default=_NEW)
        # Moves of others cost at least nothing: no way is shorter than a free cell of least cost.
        free = [cell for cell in cost if cost[cell] == least and self._free[cell] > 0]
        if not free:
            return self._add_by_moves(index)
        direct = free[0] if least < _NEW else max(free, key=self._free.__getitem__)
        self._put(index, direct)
        self._free[direct] -= 1
        return True

    def _add_by_moves(self, index: int) -> bool:
        """Give a service one more GPU on the way that moves the fewest pods of others."""
        claim = self._claims[index]
        if self._exhausted.issuperset(claim.cells):
            return False
        cost = {cell: self._cost(index, cell) for cell in claim.cells}
        came: dict[int, tuple[int, int]] = {}  # cell -> (claim that moves there, from which cell)
        queue = list(cost)
        for cell in queue:  # Bellman-Ford: a move back to a held GPU has a negative cost
            for other, target, step in self._moves(cell):
                if cost[cell] + step < cost.get(target, 1 << 30):
                    cost[target] = cost[cell] + step
                    came[target] = (other, cell)
                    queue.append(target)
        ends = [cell for cell in cost if self._free[cell] > 0]
        if not ends:
            self._exhausted.update(cost)
            return False
        cell = min(ends, key=lambda end: (cost[end], end))
        self._free[cell] -= 1
        while cell in came:
            other, before = came[cell]
            self._put(other, cell)
            self._take(other, before)
            cell = before
        self._put(index, cell)
        return True

    def _moves(self, cell: int) -> Iterator[tuple[int, int, int]]:
        """Yield each move out of a cell: the claim, the other cell, and the cost."""
        for other in sorted(self._movable[cell]):
            claim = self._claims[other]
            saved = self._cost(other, cell, -1)
            for target in claim.cells:
                if target != cell:
                    yield other, target, self._cost(other, target) - saved

    def _cost(self, index: int, cell: int, change: int = 0) -> int:
        """Return what the next GPU of a cell costs a service, or with -1 what the last one did."""
        count, claim = self.shares[index].get(cell, 0) + change, self._claims[index]
        if count < claim.ready.get(cell, 0):
            return 0
        return _HELD if count < claim.held.get(cell, 0) else _NEW

    def _put(self, index: int, cell: int) -> None:
        share = self.shares[index]
        share[cell] = share.get(cell, 0) + 1
        if cell in self._claims[index].cells:
            self._movable[cell].add(index)

    def _take(self, index: int, cell: int) -> None:
        self.shares[index][cell] -= 1
        if self.shares[index][cell] <= self._claims[index].locked.get(cell, 0):
            self._movable[cell].discard(index)
