"""Counts the GPUs of each cell, and the pods of each service that hold them.

GPUs that are equal for every service form one cell: the same class, on nodes that the same services
accept.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from avatar_operator.core.planning.scale_down import FRESH_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.inventory import NodeClassCache
    from avatar_operator.core.planning.sharing.fair_share import Group
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.placement import Placement
    from avatar_operator.core.resources.pod import PodUse, RuntimePod
    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.core.resources.state import PodState


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
    group: Group | None = None
    """The tenant that the service belongs to; None if it belongs to none."""

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


def is_removable(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether a pod certainly has no session."""
    if not pod.running:
        return True
    state = states.get(pod.uid)
    return state is not None and not state.sessions and state.age_s < FRESH_S * 2


def _frees_soon(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether the GPU of a deleted pod becomes free without waiting for sessions.

    The last state counts, however old it is: a process that has ended sends none any more. If its
    GPU did not count then, another service would have to give one back for these seconds.
    """
    state = states.get(pod.uid)
    return not pod.running or (state is not None and not state.sessions)


class _Place(NamedTuple):
    gpu_class: str
    placements: int
    """Bits of the placements that accept the nodes."""


class Cells:
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
        self.ready: dict[str, Counter[int]] = {}
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
        self.held[uid], self.locked[uid], self.ready[uid] = held, locked, Counter[int]()
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
            if pod.terminating:
                comes = _frees_soon(pod, states)
                self.coming[cell] += comes
                self.capacity[cell] += comes
                continue
            held[cell] += 1
            self.capacity[cell] += 1
            self.ready[uid][cell] += pod.ready
            locked[cell] += not is_removable(pod, states)
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
