"""The services and pods that the gateway knows; watches and state streams update it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
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
        self._services: set[str] = set()
        self._pods: dict[str, Pod] = {}
        self._states: dict[str, State] = {}
        self._placements: dict[str, set[Placement]] = {}
        self._removed: OrderedDict[str, tuple[str, float]] = OrderedDict()  # service and time

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Return all pods by key."""
        return self._pods

    @property
    def services(self) -> frozenset[str]:
        """Return the names of all services, `NAMESPACE/NAME`."""
        return frozenset(self._services)

    def replace_services(self, names: Iterable[str], namespace: str | None) -> None:
        """Replace all services of one namespace, or of all namespaces (None)."""
        kept = {name for name in self._services if not _is_in(name, namespace)}
        self._services = kept | set(names)

    def add_service(self, name: str) -> None:
        """Add a service."""
        self._services.add(name)

    def remove_service(self, name: str) -> None:
        """Remove a service; its sessions continue."""
        self._services.discard(name)

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
        self._pods[pod.key] = pod
        self.pods_changed.set()

    def remove_pod(self, key: str) -> None:
        """Remove a pod with its state and its placements."""
        pod = self._pods.pop(key, None)
        if pod is not None:
            self._forget(key)
            self._removed[key] = pod.service, monotonic()
            if len(self._removed) > _MAX_REMOVED:
                self._removed.popitem(last=False)
            self.pods_changed.set()

    def removed_pods(self, service: str) -> Sequence[str]:
        """Return the pods of a service that were removed a short time ago."""
        since = monotonic() - REMOVED_S
        return [key for key, (name, at) in self._removed.items() if name == service and at > since]

    def update_state(self, pod: Pod, state: State) -> None:
        """Store a pod's state, and drop the placements that this state counts."""
        if self._pods.get(pod.key, pod).uid != pod.uid:
            return
        self._states[pod.key] = state
        placements = self._placements.get(pod.key, set())
        placements -= {
            each
            for each in placements
            if each.accepted_at is not None and state.at - each.accepted_at > SETTLE_S
        }

    def candidates(self, service: str) -> Sequence[routing.Candidate]:
        """Return the pods of a service in the form that `routing.order` reads."""
        return [
            routing.Candidate(
                key,
                usable=bool(pod.ip) and not pod.terminating,
                state=self._states.get(key),
                placed=len(self._placements.get(key, ())),
                reserve=pod.reserve,
            )
            for key, pod in self._pods.items()
            if pod.service == service
        ]

    def add_placement(self, pod: str) -> Placement:
        """Count a session that this gateway sends to a pod."""
        placement = Placement(pod)
        self._placements.setdefault(pod, set()).add(placement)
        return placement

    def release(self, placement: Placement) -> None:
        """Drop a placement: the pod did not accept the session, or the session ended."""
        self._placements.get(placement.pod, set()).discard(placement)

    def _forget(self, key: str) -> None:
        self._states.pop(key, None)
        self._placements.pop(key, None)


def _is_in(key: str, namespace: str | None) -> bool:
    return namespace is None or key.startswith(f"{namespace}/")
