"""Ranks the pods for a session: the fullest pod with a free slot comes first.

Filling one pod after another lets the other pods become empty, so that the operator can remove
them. Of pods that are equally full, the one with the cheapest GPU class comes first, and one of
unknown cost last. Pods of the reserve come last, so that they stay empty until they are needed.

The last state of a pod is a moment old, so the gateway counts the sessions that it has sent there
since. A slot that it has given away is not given twice. The pod decides whether it accepts a
session, since other gateways send sessions as well.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from enum import Enum
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final

from avatar_contracts import session_ids
from avatar_contracts.state import STALE_S as STALE_S
from avatar_gateway.core.model import UNKNOWN_COST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence, Set

    from avatar_gateway.core.model import State

    Rank = tuple[bool, bool, float, float, int, str]
    """The sort key of a pod: is probably full, belongs to the reserve, minus its share of used
    slots, its cost per hour, minus its sessions, its key."""

MAX_TRIES: Final = 4
"""Maximum number of pods that are tried for one caller."""
ALL_CLASSES: Final[frozenset[str]] = frozenset()


class Shortage(Enum):
    """Why no pod can accept a session; the value is the error code for the caller."""

    NOT_READY = "not_ready"
    """No pod has a fresh state that says ready."""
    DRAINING = "draining"
    """All ready pods are draining."""
    NO_CAPACITY = "no_capacity"
    """All ready pods are full."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod of the requested service."""

    key: str
    usable: bool
    """Whether it has an address and is not being deleted."""
    state: State | None
    """The last reported state; None before the first one."""
    placed: int
    """Sessions that this gateway placed there and that `state` may not count yet."""
    reserve: bool = False
    """Whether the pod belongs to the reserve."""
    reserved: int = 0
    """Those of `placed` that `state` does not count: each of them holds a free slot."""
    gpu_class: str = ""
    freed: int = 0
    """Sessions that ended through this gateway and that `state` may still count."""
    is_full: bool = False
    """Whether it has refused a session since `state`, because it is full."""
    cost: float = UNKNOWN_COST
    """Per hour; of pods that are equally full, the cheapest comes first."""

    def is_ready(self, now: float) -> bool:
        """Return whether the pod is usable, and reported a short time ago that it is ready."""
        state = self.state
        return self.usable and state is not None and state.ready and now - state.at <= STALE_S

    def rank(self) -> Rank | None:
        """Return the sort key of a pod that can accept a session, None if it has no free slot.

        Whether its state is fresh is another question, whose answer changes with time.
        """
        state = self.state
        if state is None or not self.usable or not state.ready or state.draining or self.is_full:
            return None
        free = min(state.free + self.freed, state.capacity)
        if self.reserved >= free:
            return None
        taken = state.capacity - free + self.placed
        is_full = self.placed >= free
        return (is_full, self.reserve, -taken / state.capacity, self.cost, -taken, self.key)


class ServicePods:
    """The pods of one service, ranked; a change of one pod costs O(log n) comparisons."""

    def __init__(self) -> None:
        self._pods: dict[str, Candidate] = {}
        self._ranks: dict[str, Rank] = {}
        self._ranked: dict[str, list[Rank]] = {}
        """The sort keys of each GPU class, the best first."""

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Return all pods."""
        return list(self._pods.values())

    def get(self, key: str) -> Candidate | None:
        """Return a pod."""
        return self._pods.get(key)

    def set(self, pod: Candidate) -> None:
        """Add or replace a pod."""
        self._unrank(pod.key)
        self._pods[pod.key] = pod
        rank = pod.rank()
        if rank is not None:
            self._ranks[pod.key] = rank
            insort(self._ranked.setdefault(pod.gpu_class, []), rank)

    def refresh(self, key: str, state: State) -> None:
        """Replace the state of a pod by a newer one that says the same: its rank stays."""
        known = self._pods.get(key)
        if known is not None:
            self._pods[key] = replace(known, state=state)

    def remove(self, key: str) -> None:
        """Remove a pod if it is known."""
        self._unrank(key)
        self._pods.pop(key, None)

    def order(
        self,
        now: float,
        gpu_classes: Set[str] = ALL_CLASSES,
        preferred: Iterable[str] = (),
    ) -> Sequence[str] | Shortage:
        """Return the keys of the pods to try, the best first, or the reason why none is usable.

        `gpu_classes` are the allowed classes, empty for all. A pod of `preferred` comes first if it
        has room and is not of the reserve.
        """
        known = (self._ranks.get(key) for key in preferred)
        first = sorted(rank for rank in known if rank is not None and not (rank[0] or rank[1]))
        allowed = [
            ranks
            for gpu_class, ranks in self._ranked.items()
            if not gpu_classes or gpu_class in gpu_classes
        ]
        rest = allowed[0] if len(allowed) == 1 else merge(*allowed)
        keys = dict.fromkeys(rank[-1] for rank in first) if first else {}
        found = list(islice(self._fresh(keys, now, gpu_classes), MAX_TRIES))
        if len(found) < MAX_TRIES:
            others = (rank[-1] for rank in rest if rank[-1] not in keys)
            found += islice(self._fresh(others, now, gpu_classes), MAX_TRIES - len(found))
        return found or _shortage(self._pods.values(), now, gpu_classes)

    def _fresh(self, keys: Iterable[str], now: float, gpu_classes: Set[str]) -> Iterator[str]:
        for key in keys:
            pod = self._pods[key]
            if pod.is_ready(now) and (not gpu_classes or pod.gpu_class in gpu_classes):
                yield key

    def _unrank(self, key: str) -> None:
        rank = self._ranks.pop(key, None)
        if rank is not None:
            ranks = self._ranked[self._pods[key].gpu_class]
            del ranks[bisect_left(ranks, rank)]


def order(candidates: Iterable[Candidate], now: float) -> Sequence[str] | Shortage:
    """Return the keys of the pods to try, as `ServicePods` ranks them, in O(n log n)."""
    pods = ServicePods()
    for pod in candidates:
        pods.set(pod)
    return pods.order(now)


def holders(session_id: str, pods: Iterable[str]) -> Sequence[str]:
    """Return the keys of the pods that may have a session: nearly always one, or none.

    Neither its state nor a drain matters: the pod has the session, and its slot.
    """
    found = (key for key in pods if session_ids.belongs_to(session_id, key.rpartition("/")[2]))
    return list(islice(found, MAX_TRIES))


def _shortage(candidates: Iterable[Candidate], now: float, gpu_classes: Set[str]) -> Shortage:
    """Return why no pod is usable; the first pod that is only full decides it."""
    shortage = Shortage.NOT_READY
    for pod in candidates:
        if gpu_classes and pod.gpu_class not in gpu_classes:
            continue
        if pod.state is not None and pod.is_ready(now):
            if not pod.state.draining:
                return Shortage.NO_CAPACITY
            shortage = Shortage.DRAINING
    return shortage
