"""Computes the share of each service in GPUs that do not suffice for all services.

The inputs are the demands that the latest plans have stated, and the observed pods. GPUs that are
equal for every service form one cell (see `fair_share`): the same class, on nodes that the same
services accept. Services and classes that no shortage concerns are left out.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_operator.core.planning.sharing.fair_share import Claim, GroupTotals, share_out
from avatar_operator.core.planning.sharing.gpu_cells import (
    Cells,
    Demand,
    Holders,
    Observation,
    Part,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.resources.placement import Placement

MAX_PLACEMENTS: Final = 32
"""Different placements that one computation considers; others keep what they have."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one service may have while GPUs are short."""

    allowed: Mapping[str, int]
    """The highest number of pods on each class; classes that are not short are left out."""
    keep: Mapping[int, int] = field(default_factory=dict)
    """The number of pods to keep in each cell in which it gives GPUs back."""
    contested: bool = False
    """Whether a GPU that the service could use is on its way to another one."""
    parts: Mapping[Part, int] = field(default_factory=dict, compare=False, repr=False)
    """The cell of each node and class."""
    cells: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The cells that the service accepts."""
    holders: Holders = field(default=(), compare=False, repr=False)

    def held_by(self, namespace: str) -> tuple[Counter[str], int]:
        """Return who holds the GPUs: the services of the namespace, and a number for all others.

        Names of other namespaces are left out, because tenants must not learn them.
        """
        own: Counter[str] = Counter()
        others = 0
        for cell in self.cells:
            for where, names in self.holders[cell].items():
                if where == namespace:
                    own += names
                else:
                    others += names.total()
        return own, others


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of all services that a shortage concerns, by UID."""

    by_service: Mapping[str, Share]
    newcomer: Share
    """The share of a service that has not stated its demand yet: what no other service gets."""
    offered: frozenset[str] = frozenset()
    """UIDs of the services for which a GPU is free that they have not taken yet."""

    def of(self, uid: str, *, stated: bool) -> Share | None:
        """Return the share of a service, None if no shortage concerns it."""
        return self.by_service.get(uid) if stated else self.newcomer


def compute(demands: Mapping[str, Demand], observed: Observation) -> Shares | None:
    """Return the shares, None if no service lacks GPUs."""
    competition = collect(demands, observed)
    return None if competition is None else competition.divide()


def collect(
    demands: Mapping[str, Demand], observed: Observation, declined: Collection[str] = ()
) -> Competition | None:
    """Return the services that compete for GPUs with one that lacks some, or None without any.

    `declined` are the UIDs of services that did not take a free GPU: none is kept for them.
    """
    chosen, classes = _concerned(demands)
    if not chosen:
        return None
    cells = Cells(chosen, classes, observed)
    claims = [
        Claim(
            key=demand.key,
            wanted=cells.limit(uid, demand.wanted) if uid in declined else demand.wanted,
            cells=cells.accepted[uid],
            minimum=demand.minimum,
            weight=demand.weight,
            priority=observed.priorities.get(demand.priority_class or "", 0),
            created=demand.created,
            group=demand.group,
            held=cells.held[uid],
            locked=cells.held[uid] if demand.keeps_all else cells.locked[uid],
            ready=cells.ready[uid],
        )
        for uid, demand in chosen.items()
    ]
    return Competition(tuple(chosen), claims, frozenset(classes), cells)


@dataclass(frozen=True, slots=True)
class Competition:
    """The claims of services on cells; it shares no data with anything that changes."""

    uids: tuple[str, ...]
    claims: Sequence[Claim]
    classes: Collection[str]
    cells: Cells

    def divide(self) -> Shares:
        """Return the shares. For thousands of services this takes a large part of a second."""
        outcome = _Outcome(self.claims, share_out(self.claims, self.cells.capacity), self.cells)
        keep = outcome.keep()
        by_service = {
            uid: Share(
                allowed=outcome.allowed(index, self.classes),
                keep=keep[index],
                contested=outcome.is_contested(index),
                parts=self.cells.parts,
                cells=self.claims[index].cells,
                holders=self.cells.holders,
            )
            for index, uid in enumerate(self.uids)
        }
        offered = frozenset(self.uids[index] for index in outcome.offered())
        return Shares(by_service, Share(outcome.spare(self.classes)), offered)


def _concerned(demands: Mapping[str, Demand]) -> tuple[dict[str, Demand], Collection[str]]:
    """Return the services that compete with one that lacks GPUs, and their GPU classes."""
    classes: set[str] = set()
    found: dict[str, Demand] = {}
    placements: set[Placement] = set()
    rest = _by_turn(demands)
    size = -1
    while size != len(found):
        size = len(found)
        for uid, demand in list(rest.items()):
            if not (demand.lacks or classes.intersection(demand.classes)):
                continue
            del rest[uid]
            placements.add(demand.placement)
            if len(placements) > MAX_PLACEMENTS:
                placements.discard(demand.placement)
                continue
            found[uid] = demand
            classes.update(demand.classes)
    return found, classes


def _by_turn(demands: Mapping[str, Demand]) -> dict[str, Demand]:
    """Return the services in the order in which a limit on the number of placements keeps them.

    The namespaces take turns, so that one tenant cannot fill the limit with placements of its own.
    In its turn a namespace names its next placement of a service that lacks GPUs, and its next
    placement of those that hold GPUs, the one with the most GPUs first.
    """
    lacking: dict[str, dict[Placement, int]] = defaultdict(dict)
    held: dict[str, Counter[Placement]] = defaultdict(Counter)
    for demand in demands.values():
        namespace, placement = demand.key.namespace, demand.placement
        held[namespace][placement] += demand.has
        if demand.lacks:
            lacking[namespace].setdefault(placement, len(lacking[namespace]))
    turns = {
        namespace: {placement: turn for turn, (placement, _) in enumerate(counts.most_common())}
        for namespace, counts in held.items()
    }
    for namespace, found in lacking.items():
        for placement, turn in found.items():
            turns[namespace][placement] = min(turn, turns[namespace][placement])

    def key(item: tuple[str, Demand]) -> tuple[int, bool]:
        demand = item[1]
        return turns[demand.key.namespace][demand.placement], not demand.lacks

    return dict(sorted(demands.items(), key=key))


class _Outcome:
    """What follows from the shares for each service."""

    def __init__(
        self, claims: Sequence[Claim], shares: Sequence[Mapping[int, int]], cells: Cells
    ) -> None:
        self._claims = claims
        self._shares = shares
        self._cells = cells
        self._spare = list(cells.capacity)
        self._short: list[dict[int, int]] = [{} for _ in cells.capacity]  # by index of the claim
        for index, (claim, share) in enumerate(zip(claims, shares, strict=True)):
            for cell, count in share.items():
                self._spare[cell] -= count
                if count > claim.held.get(cell, 0):
                    self._short[cell][index] = count - claim.held.get(cell, 0)

    def spare(self, classes: Iterable[str]) -> dict[str, int]:
        """Return the GPUs of each class that no service gets."""
        found = dict.fromkeys(sorted(classes), 0)
        for cell, count in enumerate(self._spare):
            found[self._cells.classes[cell]] += count
        return found

    def allowed(self, index: int, classes: Collection[str]) -> dict[str, int]:
        """Return how many pods a service may have on each class.

        The scheduler chooses the node. While a GPU that only some services can use is on its way to
        one of them, the others create no pod on this class that could take it.
        """
        claim, share = self._claims[index], self._shares[index]
        found = dict.fromkeys(classes, 0)
        for gpu_class in classes:
            cells = [cell for cell in claim.cells if self._cells.classes[cell] == gpu_class]
            if not cells:  # not part of its demand: only what no other service gets
                named = enumerate(self._cells.classes)
                cells = [cell for cell, name in named if name == gpu_class]
                found[gpu_class] = sum(claim.held.get(cell, 0) for cell in cells)
                found[gpu_class] += sum(self._spare[cell] for cell in cells)
                continue
            found[gpu_class] = sum(share.get(cell, 0) + self._spare[cell] for cell in cells)
            if len(cells) > 1 and any(self._is_promised(index, cell, cells) for cell in cells):
                held = sum(claim.held.get(cell, 0) for cell in cells)
                found[gpu_class] = min(found[gpu_class], held)
        return found

    def offered(self) -> set[int]:
        """Return the services for which a GPU is free that they have not taken yet."""
        offers = zip(self._cells.free, self._short, strict=True)
        return {index for free, short in offers if free > 0 for index in short}

    def is_contested(self, index: int) -> bool:
        """Return whether another service is about to get a GPU that this one could use."""
        short = (self._short[cell] for cell in self._claims[index].cells)
        return any(len(each) > (index in each) for each in short)

    def keep(self) -> list[dict[int, int]]:
        """Return for each service the pods to keep in each cell in which it gives GPUs back.

        Only as many GPUs are given back as services lack in the cell.
        """
        found: list[dict[int, int]] = [{} for _ in self._claims]
        for cell, short in enumerate(self._short):
            needed = sum(short.values()) - self._cells.free[cell] - self._cells.coming[cell]
            if needed <= 0:
                continue
            for index in self._givers(cell, needed):
                held = self._claims[index].held[cell]
                found[index][cell] = found[index].get(cell, held) - 1
        return found

    def _givers(self, cell: int, needed: int) -> list[int]:
        """Return who gives a GPU of a cell back, each as often as it gives one."""
        offers = []
        totals = [sum(claim.held.values()) for claim in self._claims]
        groups = GroupTotals(self._claims, totals)
        for index, (claim, share) in enumerate(zip(self._claims, self._shares, strict=True)):
            total, group = totals[index], groups.of(claim)
            surplus = claim.held.get(cell, 0) - share.get(cell, 0)
            offers += [
                (
                    total - given > claim.wanted,
                    claim.turn(total - 1 - given, group - 1 - given),
                    index,
                )
                for given in range(surplus)
            ]
        return [index for *_, index in heapq.nlargest(needed, offers)]

    def _is_promised(self, index: int, cell: int, alternatives: Collection[int]) -> bool:
        """Return whether a GPU of a cell goes to a service that cannot use the alternatives."""
        return any(
            other != index and not set(self._claims[other].cells).issuperset(alternatives)
            for other in self._short[cell]
        )
