"""Follows the state stream of every runtime pod and gateway that can send one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator.streams.endpoint import Endpoint, admin_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core.cache.entries import ChangeImpact
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.keys import KeyRing
    from avatar_operator.streams.gateways import GatewayStates
    from avatar_operator.streams.runtimes import RuntimeStates


class StreamFollower:
    """Opens and closes streams as pods appear, change and disappear."""

    def __init__(
        self,
        store: Store,
        runtimes: RuntimeStates,
        gateways: GatewayStates,
        on_unfollow: Callable[[str], None],
    ) -> None:
        """`on_unfollow` gets the UID of each runtime pod that has no stream to follow."""
        self._store = store
        self._runtimes = runtimes
        self._gateways = gateways
        self._on_unfollow = on_unfollow
        self._keys: KeyRing | None = None  # None until they were read

    def start(self, keys: KeyRing) -> None:
        """Set the keys, and follow all pods with their tokens; open connections stay."""
        self._keys = keys
        for uid in self._store.pods.uids():
            self._follow_runtime(uid)
        for uid in self._store.gateways.uids():
            self._follow_gateway(uid)

    def on_change(self, impact: ChangeImpact) -> None:
        """Follow a pod that changed, as long as it runs and has an address."""
        if impact.pod is not None:
            self._follow_runtime(impact.pod)
        if impact.gateway is not None:
            self._follow_gateway(impact.gateway)

    async def close(self) -> None:
        """Close all streams."""
        await self._runtimes.close()
        await self._gateways.close()

    def _follow_runtime(self, uid: str) -> None:
        pod = self._store.pods.get(uid)
        if pod is None or self._keys is None or not (pod.ip and pod.running):
            self._runtimes.unfollow(uid)
            self._on_unfollow(uid)
            return
        token, *others = self._keys.control_tokens(str(pod.origin), pod.key_generation)
        address = admin_address(pod.ip)
        self._runtimes.follow(uid, Endpoint(pod.name, address, token, pod.ready, tuple(others)))

    def _follow_gateway(self, uid: str) -> None:
        pod = self._store.gateways.get(uid)
        if pod is None or self._keys is None or not (pod.ip and pod.running):
            self._gateways.unfollow(uid)
            return
        token, *others = self._keys.gateway_tokens()
        address = admin_address(pod.ip)
        self._gateways.follow(uid, Endpoint(pod.name, address, token, other_tokens=tuple(others)))
