"""The services and pods that the gateway knows; watches and state streams update it."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from avatar_gateway.core import routing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_gateway.core.model import Pod, State

REMOVED_S: Final = 60.0
"""How long the name of a removed pod is known: its sessions may continue on another one."""
_MAX_REMOVED: Final = 1024
SETTLE_S: Final = 0.25
"""A state that arrives this long after a pod accepted a session counts that session."""
_ENDED_S: Final = 0.1
"""A state that arrives this long after a session has ended does not count it any more. Until then a
slot may count as free twice, and the pod refuses the second caller."""

_NO_PODS: Final = routing.ServicePods()


@dataclass(slots=True, eq=False)
class Placement:
    """A session that this gateway sends to a pod and that the pod's state may not count yet."""

    pod: str
    accepted_at: float | None = None
    """When the pod accepted it: seconds on the event loop's clock; None until then."""


class PodRegistry:
    """Services, pods and their last states. Used on the event loop only; does no I/O."""

    def __init__(self) -> None:
        self.pods_changed = asyncio.Event()
        self._services: frozenset[str] = frozenset()
        self._pods: dict[str, Pod] = {}
        self._states: dict[str, State] = {}
        self._placements: dict[str, set[Placement]] = {}
        self._full_since: dict[str, float] = {}
        """When pods refused a session because they were full, until a later state arrives."""
        self._freed: dict[str, list[float]] = {}
        """When sessions ended that the state of their pod may still count."""
        self._removed: OrderedDict[str, tuple[str, float]] = OrderedDict()  # service and time
        self._by_service: dict[str, routing.ServicePods] = {}

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Return all pods by key."""
        return self._pods

    @property
    def services(self) -> frozenset[str]:
        """Return the names of all services, `NAMESPACE/NAME`."""
        return self._services

    def replace_services(self, names: Iterable[str], namespace: str | None) -> None:
        """Replace all services of one namespace, or of all namespaces (None)."""
        kept = {name for name in self._services if not _is_in(name, namespace)}
        self._services = frozenset(kept | set(names))

    def add_service(self, name: str) -> None:
        """Add a service."""
        self._services |= {name}

    def remove_service(self, name: str) -> None:
        """Remove a service; its sessions continue."""
        self._services -= {name}

    def replace_pods(self, pods: Iterable[Pod], namespace: str | None) -> None:
        """Replace all pods of one namespace, or of all namespaces (None)."""
        listed = {pod.key: pod for pod in pods}
        for key in [key for key in self._pods if _is_in(key, namespace) and key not in listed]:
            self.remove_pod(key)
        for pod in listed.values():
            self.set_pod(pod)

    def set_pod(self, pod: Pod) -> None:
        """Add or update a pod; a new pod with a known name starts without a state."""
        known = self._pods.get(pod.key)
        if known == pod:
            return
        if known is not None and (known.uid, known.ip) != (pod.uid, pod.ip):
            self._forget(pod.key)
        if known is not None and known.service != pod.service:
            self._unrank(known)
        self._pods[pod.key] = pod
        self._rank(pod)
        self.pods_changed.set()

    def remove_pod(self, key: str) -> None:
        """Remove a pod with its state and its placements."""
        pod = self._pods.pop(key, None)
        if pod is not None:
            self._forget(key)
            self._removed[key] = pod.service, monotonic()
            if len(self._removed) > _MAX_REMOVED:
                self._removed.popitem(last=False)
            self._unrank(pod)
            self.pods_changed.set()

    def removed_pods(self, service: str) -> Sequence[str]:
        """Return the pods of a service that were removed a short time ago."""
        since = monotonic() - REMOVED_S
        return [key for key, (name, at) in self._removed.items() if name == service and at > since]

    def update_state(self, pod: Pod, state: State) -> None:
        """Store a pod's state, and drop the placements that this state counts."""
        known = self._pods.get(pod.key)
        if known is None or known.uid != pod.uid:
            return
        key = pod.key
        before = self._states.get(key)
        self._states[key] = state
        placements, freed = self._placements.get(key), self._freed.get(key)
        is_same = before is not None and before.says_same(state)
        if is_same and not (placements or freed or key in self._full_since):
            self.pods_of(known.service).refresh(key, state)
            return
        if placements:
            placements -= {
                each
                for each in placements
                if each.accepted_at is not None and state.at - each.accepted_at > SETTLE_S
            }
        if freed:
            self._freed[key] = [at for at in freed if state.at - at <= _ENDED_S]
        # The clock of uvloop counts whole milliseconds: a later state can have the same time.
        if state.at >= self._full_since.get(key, math.inf):
            del self._full_since[key]
        self._rank(known)

    def refresh_state(self, pod: Pod, now: float) -> bool:
        """Store that a pod says the same as before; return False if nothing is known of it."""
        state = self._states.get(pod.key)
        if state is not None:
            self.update_state(pod, replace(state, at=now, sequence=state.sequence + 1))
        return state is not None

    def candidates(self, service: str) -> Sequence[routing.Candidate]:
        """Return the pods of a service in the form that `routing.order` reads."""
        return self.pods_of(service).candidates

    def pods_of(self, service: str) -> routing.ServicePods:
        """Return the ranked pods of a service, to be read only."""
        return self._by_service.get(service, _NO_PODS)

    def capacity(self, pod: str) -> int:
        """Return how many sessions a pod can have, as it reported last; 0 if that is not known."""
        state = self._states.get(pod)
        return 0 if state is None else state.capacity

    def add_placement(self, pod: str) -> Placement:
        """Count a session that this gateway sends to a pod: it holds a slot from now on."""
        placement = Placement(pod)
        self._placements.setdefault(pod, set()).add(placement)
        self._rank(self._pods.get(pod))
        return placement

    def refuse(self, pod: str, now: float) -> None:
        """Record that a pod refused a session because it is full.

        What this gateway knew of its slots was wrong, for example because another gateway has taken
        them. No caller is sent there before the next state of the pod.
        """
        known = self._pods.get(pod)
        if known is not None and pod in self._states:
            self._full_since[pod] = now
            self._freed.pop(pod, None)
            self._rank(known)

    def release(self, placement: Placement, ended_at: float | None = None) -> None:
        """Drop a placement: the pod did not accept the session, or the session ended.

        `ended_at` is when it ended: seconds on the event loop's clock. Until a state can have
        counted that, its slot is taken as free: the pod decides.
        """
        pod, state = self._pods.get(placement.pod), self._states.get(placement.pod)
        placements = self._placements.get(placement.pod, set())
        is_known = placement in placements
        placements.discard(placement)
        is_freed = ended_at is not None and not _is_after(placement, state)
        if ended_at is not None:  # the pod may have a free slot again
            self._full_since.pop(placement.pod, None)
        if ended_at is not None and is_freed and pod is not None:
            self._freed.setdefault(pod.key, []).append(ended_at)
        if is_known or is_freed:
            self._rank(pod)

    def _rank(self, pod: Pod | None) -> None:
        """Rank a known pod again after a change of it, of its state or of its placements."""
        if pod is None:
            return
        state, placements = self._states.get(pod.key), self._placements.get(pod.key, ())
        self._by_service.setdefault(pod.service, routing.ServicePods()).set(
            routing.Candidate(
                pod.key,
                usable=bool(pod.ip) and not pod.terminating,
                state=state,
                placed=len(placements),
                reserve=pod.reserve,
                reserved=sum(_is_after(each, state) for each in placements),
                freed=len(self._freed.get(pod.key, ())),
                gpu_class=pod.gpu_class,
                cost=pod.cost,
                is_full=pod.key in self._full_since,
            )
        )

    def _unrank(self, pod: Pod) -> None:
        pods = self._by_service.get(pod.service)
        if pods is not None:
            pods.remove(pod.key)
            if not pods:
                del self._by_service[pod.service]

    def _forget(self, key: str) -> None:
        self._states.pop(key, None)
        self._placements.pop(key, None)
        self._freed.pop(key, None)
        self._full_since.pop(key, None)


def _is_after(placement: Placement, state: State | None) -> bool:
    """Return whether a pod sent its state before it can have counted the placement."""
    accepted_at = placement.accepted_at
    return state is None or accepted_at is None or accepted_at > state.at


def _is_in(key: str, namespace: str | None) -> bool:
    return namespace is None or key.startswith(f"{namespace}/")
