"""What the gateway knows of services and pods right now; the watches and streams fill it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_gateway.core import routing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_gateway.core.model import Pod, State

SETTLE_S: Final = 0.25
"""A line that arrives this long after a pod took a session was written after it did."""


@dataclass(slots=True, eq=False)
class Placement:
    """A session on its way to a pod, or there but not yet in the pod's own count."""

    pod: str
    taken_at: float | None = None
    """When the pod took it; None until then."""


class Directory:
    """Services, pods and their last states; lives on the event loop, does no I/O."""

    def __init__(self) -> None:
        self.pods_changed = asyncio.Event()
        self._services: set[str] = set()
        self._pods: dict[str, Pod] = {}
        self._states: dict[str, State] = {}
        self._placements: dict[str, set[Placement]] = {}

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Return all pods by key."""
        return self._pods

    @property
    def services(self) -> frozenset[str]:
        """Return the names of all services, `NAMESPACE/NAME`."""
        return frozenset(self._services)

    def replace_services(self, names: Iterable[str], namespace: str | None) -> None:
        """Take a whole list of services, of one namespace or of all."""
        kept = {name for name in self._services if not _is_in(name, namespace)}
        self._services = kept | set(names)

    def add_service(self, name: str) -> None:
        """Take a service that is there."""
        self._services.add(name)

    def remove_service(self, name: str) -> None:
        """Forget a service; its sessions go on."""
        self._services.discard(name)

    def replace_pods(self, pods: Iterable[Pod], namespace: str | None) -> None:
        """Take a whole list of pods, of one namespace or of all."""
        listed = {pod.key: pod for pod in pods}
        for key in [key for key in self._pods if _is_in(key, namespace) and key not in listed]:
            self.remove_pod(key)
        for pod in listed.values():
            self.set_pod(pod)

    def set_pod(self, pod: Pod) -> None:
        """Take a pod as it is now; a new pod of an old name starts without a state."""
        known = self._pods.get(pod.key)
        if known == pod:
            return
        if known is not None and (known.uid, known.ip) != (pod.uid, pod.ip):
            self._forget(pod.key)
        self._pods[pod.key] = pod
        self.pods_changed.set()

    def remove_pod(self, key: str) -> None:
        """Forget a pod."""
        if self._pods.pop(key, None) is not None:
            self._forget(key)
            self.pods_changed.set()

    def heard(self, pod: Pod, state: State) -> None:
        """Take what a pod says of itself; sessions that it must count by now count no more here."""
        if self._pods.get(pod.key, pod).uid != pod.uid:
            return
        self._states[pod.key] = state
        placed = self._placements.get(pod.key, set())
        placed -= {
            item
            for item in placed
            if item.taken_at is not None and state.at - item.taken_at > SETTLE_S
        }

    def candidates(self, service: str) -> Sequence[routing.Candidate]:
        """Return the pods of a service as the routing wants them."""
        return [
            routing.Candidate(
                key,
                usable=bool(pod.ip) and not pod.leaving,
                state=self._states.get(key),
                placed=len(self._placements.get(key, ())),
                reserve=pod.reserve,
            )
            for key, pod in self._pods.items()
            if pod.service == service
        ]

    def place(self, pod: str) -> Placement:
        """Note a session that is on its way to a pod."""
        placement = Placement(pod)
        self._placements.setdefault(pod, set()).add(placement)
        return placement

    def withdraw(self, placement: Placement) -> None:
        """Forget a session that did not get there, or is over."""
        self._placements.get(placement.pod, set()).discard(placement)

    def _forget(self, key: str) -> None:
        self._states.pop(key, None)
        self._placements.pop(key, None)


def _is_in(key: str, namespace: str | None) -> bool:
    return namespace is None or key.startswith(f"{namespace}/")
