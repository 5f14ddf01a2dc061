"""Computes the share of each service in GPUs that do not suffice for all services.

The inputs are the demands that the latest plans have stated, and the observed pods. GPUs that are
equal for every service form one cell (see `fair_share`): the same class, on nodes that the same
services accept. Services and classes that no shortage concerns are left out.
"""

from __future__ import annotations

import functools
import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator.core.planning.fair_share import Claim, share_out
from avatar_operator.core.planning.scale_down import FRESH_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.inventory import NodeClassCache
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import PodUse, RuntimePod
    from avatar_operator.core.resources.service import Placement, ServiceKey
    from avatar_operator.core.resources.state import PodState

MAX_PLACEMENTS: Final = 32
"""Different placements that one computation considers; others keep what they have."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The GPUs that a service can use, as its latest plan stated them."""

    key: ServiceKey
    wanted: int
    """GPUs in all; not more than the service could use at once if they were free."""
    has: int
    """GPUs that it has."""
    minimum: int
    weight: int
    priority_class: str | None
    created: str
    classes: tuple[str, ...]
    """The GPU classes that it accepts, the preferred one first."""
    placement: Placement
    """Which nodes it accepts; the other fields have their defaults."""
    keeps_all: bool = False
    """Whether annotations forbid to remove pods."""

    @property
    def lacks(self) -> bool:
        """Whether another GPU would be used."""
        return self.wanted > self.has

    def without_more(self) -> Demand:
        """Return the demand of the service if it cannot use more GPUs than it has."""
        return replace(self, wanted=min(self.wanted, self.has))


@dataclass(frozen=True, slots=True)
class Observation:
    """The cluster at the time of a computation."""

    nodes: tuple[Node, ...]
    profiles: tuple[GPUProfile, ...]
    uses: tuple[PodUse, ...]
    node_classes: NodeClassCache
    pods: Callable[[str], Sequence[RuntimePod]]
    """The pods of a service, by its UID."""
    states: Callable[[Iterable[str]], Mapping[str, PodState]]
    """The latest states, by UID of the pod."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    """The values of PriorityClasses by name; "" is the default class."""


Part = tuple[str, str]
"""Node and GPU class."""

Holders = tuple["Mapping[str, Counter[str]]", ...]
"""For each cell the number of GPUs by namespace and name of the service."""


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
    """Return the services that compete for GPUs with one that lacks some, None if there is none.

    `declined` are the UIDs of services that did not take a free GPU: none is kept for them.
    """
    chosen, classes = _concerned(demands)
    if not chosen:
        return None
    cells = _Cells(chosen, classes, observed)
    claims = [
        Claim(
            key=demand.key,
            wanted=cells.limit(uid, demand.wanted) if uid in declined else demand.wanted,
            cells=cells.accepted[uid],
            minimum=demand.minimum,
            weight=demand.weight,
            priority=observed.priorities.get(demand.priority_class or "", 0),
            created=demand.created,
            held=cells.held[uid],
            locked=cells.held[uid] if demand.keeps_all else cells.locked[uid],
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
    cells: _Cells

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


def is_removable(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether a pod certainly has no session."""
    if not pod.running:
        return True
    state = states.get(pod.uid)
    return state is not None and not state.sessions and state.age_s < FRESH_S * 2


def _concerned(demands: Mapping[str, Demand]) -> tuple[dict[str, Demand], Collection[str]]:
    """Return the services that compete with one that lacks GPUs, and their GPU classes.

    Services that lack GPUs come first, so that a limit on the number of placements keeps them.
    """
    classes: set[str] = set()
    found: dict[str, Demand] = {}
    placements: set[Placement] = set()
    rest = dict(sorted(demands.items(), key=lambda item: not item[1].lacks))
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


class _Place(NamedTuple):
    gpu_class: str
    placements: int
    """Bits of the placements that accept the nodes."""


class _Cells:
    """The GPUs of all cells, and the pods that hold them."""

    def __init__(
        self, demands: Mapping[str, Demand], classes: Collection[str], observed: Observation
    ) -> None:
        placements = list(dict.fromkeys(demand.placement for demand in demands.values()))
        free_parts, masks = self._free_parts(placements, classes, observed)
        places = {part: _Place(part[1], mask) for part, mask in masks.items()}
        numbers = {place: number for number, place in enumerate(sorted(set(places.values())))}
        self.parts: dict[Part, int] = {part: numbers[place] for part, place in places.items()}
        self.classes = [place.gpu_class for place in numbers]
        self.free = [0] * len(numbers)
        for part, free in free_parts.items():
            self.free[self.parts[part]] += free
        self.coming = [0] * len(numbers)
        self.capacity = list(self.free)
        bits = {placement: bit for bit, placement in enumerate(placements)}
        accepted = functools.cache(
            lambda wanted, placement: tuple(
                number
                for gpu_class in wanted
                for place, number in numbers.items()
                if place.gpu_class == gpu_class and place.placements >> bits[placement] & 1
            )
        )
        self.accepted: dict[str, tuple[int, ...]] = {
            uid: accepted(demand.classes, demand.placement) for uid, demand in demands.items()
        }
        self.held: dict[str, Counter[int]] = {}
        self.locked: dict[str, Counter[int]] = {}
        holders: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in numbers]
        unbound = [
            (uid, pod)
            for uid, demand in demands.items()
            for pod in self._count_bound(uid, demand, observed, holders)
        ]
        for uid, pod in unbound:
            self._count_unbound(uid, pod, demands[uid].key, holders)
        self.holders: Holders = tuple(holders)

    def limit(self, uid: str, wanted: int) -> int:
        """Return the wanted GPUs of a service that gets no more than it holds."""
        return min(wanted, self.held[uid].total())

    @staticmethod
    def _free_parts(
        placements: Sequence[Placement], classes: Collection[str], observed: Observation
    ) -> tuple[dict[Part, int], dict[Part, int]]:
        """Return the free GPUs of each node and class, and the placements that accept it."""
        used: Counter[tuple[str, str]] = Counter()
        for use in observed.uses:
            for resource, count in use.counts.items():
                used[use.node, resource] += count
        free: dict[Part, int] = {}
        masks: Counter[Part] = Counter()
        for bit, placement in enumerate(placements):
            view = observed.node_classes.view(observed.nodes, observed.profiles, placement)
            for member in view.members:
                if member.gpu_class is None or member.gpu_class not in classes:
                    continue
                part = (member.node.name, member.gpu_class)
                free[part] = max(0, member.gpus - used[member.node.name, member.resource])
                masks[part] |= 1 << bit
        return free, dict(masks)

    def _count_bound(
        self,
        uid: str,
        demand: Demand,
        observed: Observation,
        holders: Sequence[dict[str, Counter[str]]],
    ) -> list[RuntimePod]:
        """Count the pods of a service, and return those that the scheduler is placing."""
        held, locked = Counter[int](), Counter[int]()
        self.held[uid], self.locked[uid] = held, locked
        unbound = []
        pods = [pod for pod in observed.pods(uid) if not pod.ended]
        states = observed.states([pod.uid for pod in pods])
        for pod in pods:
            if not pod.node:
                if not pod.terminating and pod.rejected_at is None:
                    unbound.append(pod)
                continue
            cell = self.parts.get((pod.node, pod.gpu_class))
            if cell is None:
                continue
            holders[cell][demand.key.namespace][demand.key.name] += 1
            removable = is_removable(pod, states)
            if pod.terminating:  # its GPU becomes free, at once only if it has no session
                self.coming[cell] += removable
                self.capacity[cell] += removable
                continue
            held[cell] += 1
            self.capacity[cell] += 1
            if not removable:
                locked[cell] += 1
        return unbound

    def _count_unbound(
        self,
        uid: str,
        pod: RuntimePod,
        key: ServiceKey,
        holders: Sequence[dict[str, Counter[str]]],
    ) -> None:
        """Count a pod without a node for a free GPU of its class; without one it holds nothing."""
        for cell in self.accepted[uid]:
            if self.classes[cell] == pod.gpu_class and self.free[cell] > 0:
                self.free[cell] -= 1
                self.held[uid][cell] += 1
                holders[cell][key.namespace][key.name] += 1
                return


class _Outcome:
    """What follows from the shares for each service."""

    def __init__(
        self, claims: Sequence[Claim], shares: Sequence[Mapping[int, int]], cells: _Cells
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
        for index, (claim, share) in enumerate(zip(self._claims, self._shares, strict=True)):
            total = sum(claim.held.values())
            surplus = claim.held.get(cell, 0) - share.get(cell, 0)
            offers += [
                (total - given > claim.wanted, claim.turn(total - 1 - given), index)
                for given in range(surplus)
            ]
        return [index for *_, index in heapq.nlargest(needed, offers)]

    def _is_promised(self, index: int, cell: int, alternatives: Collection[int]) -> bool:
        """Return whether a GPU of a cell goes to a service that cannot use the alternatives."""
        return any(
            other != index and not set(self._claims[other].cells).issuperset(alternatives)
            for other in self._short[cell]
        )
