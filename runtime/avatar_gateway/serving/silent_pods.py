"""Ends connections to pods that have gone silent, so that their sessions go on on other pods.

A node that vanishes, or a process that is stopped, does not reset its connections. A pod sends a
line of its state every second. After `STALE_S` without one, and without data on the connection of
a session, the pod is taken as lost for that session.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from avatar_gateway.core.routing import STALE_S

if TYPE_CHECKING:
    from avatar_gateway.core.model import Pod
    from avatar_gateway.pod_registry import PodRegistry
    from avatar_gateway.serving.peer import Peer

_INTERVAL_S: Final = 0.5
_LATE_S: Final = 1.5
"""A check that comes so late says that this gateway was stopped, and has not read what came."""

_log = logging.getLogger(__name__)


class SilentPods:
    """Knows the connections of sessions that can go on on another pod."""

    def __init__(self, registry: PodRegistry) -> None:
        self._registry = registry
        self._watched: dict[Peer, Pod] = {}
        self._trusts_from = 0.0

    def watch(self, peer: Peer, pod: Pod) -> None:
        """End a connection when its pod is silent."""
        self._watched[peer] = pod

    def forget(self, peer: Peer) -> None:
        """Take note that a connection has ended."""
        self._watched.pop(peer, None)

    async def run(self) -> None:
        """Check until cancelled."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(_INTERVAL_S)
            now = loop.time()
            if now - before > _INTERVAL_S + _LATE_S:
                self._trusts_from = now + STALE_S
            before = now
            if now >= self._trusts_from:
                self.check(now)

    def check(self, now: float) -> None:
        """End the connections to pods that are silent; `now` is the time of the event loop."""
        for peer, pod in list(self._watched.items()):
            if now - max(self._heard_at(pod, now), peer.heard_at) > STALE_S:
                _log.warning("pod silent, its session goes on elsewhere pod=%s", pod.key)
                self.forget(peer)
                peer.abort()

    def _heard_at(self, pod: Pod, now: float) -> float:
        """Return when the last state of a pod came; `now` for a pod that is not known well."""
        candidate = self._registry.pods_of(pod.service).get(pod.key)
        if candidate is None or candidate.state is None:
            return now
        return candidate.state.at
