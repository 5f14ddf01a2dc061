"""Keeps all runtime pods, indexed by their service, their owner and their origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_operator.core.resources.pod import RuntimePod

_Key = TypeVar("_Key")


class PodIndex:
    """The runtime pods of all services."""

    def __init__(self) -> None:
        self._pods: Cache[RuntimePod] = Cache()
        self._by_service: dict[ServiceKey, set[str]] = {}  # UIDs of pods
        self._by_owner: dict[str, set[str]] = {}  # UIDs of pods, by UID of their service
        self._by_origin: dict[ServiceKey, set[str]] = {}  # UIDs of adopted pods

    def get(self, uid: str) -> RuntimePod | None:
        """Return a pod, None if it is unknown."""
        return self._pods.get(uid)

    def version(self, uid: str) -> int | None:
        """Return the version of a pod, None if the pod is unknown."""
        return self._pods.version(uid)

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of all pods."""
        return self._pods.uids()

    def values(self) -> Iterator[RuntimePod]:
        """Yield all pods."""
        return self._pods.values()

    def of_service(self, key: ServiceKey) -> tuple[RuntimePod, ...]:
        """Return the pods of the services with this name, deleted ones included."""
        return self._resolve(self._by_service.get(key, set()))

    def owners(self) -> tuple[str, ...]:
        """Return the UIDs of the services that own pods, whether these services exist or not."""
        return tuple(self._by_owner)

    def owned_by(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the pods whose owner is exactly this service, whether it exists or not."""
        return self._resolve(self._by_owner.get(uid, set()))

    def adopted_from(self, key: ServiceKey) -> tuple[RuntimePod, ...]:
        """Return the pods that were created for a service and adopted by another one."""
        return self._resolve(self._by_origin.get(key, set()))

    def put(self, uid: str, version: int, pod: RuntimePod) -> tuple[str, ...]:
        """Store a pod, and return the UIDs of the services that the change affects.

        These are the owner and, if the pod was adopted, the previous owner; none if the pod
        did not change.
        """
        known = self._pods.get(uid)
        if not self._pods.put(uid, version, pod):
            return ()
        owners = {pod.owner_uid: None}  # each once, in order
        if known is not None:
            self._unindex(known)
            owners[known.owner_uid] = None
        self._by_service.setdefault(_key(pod), set()).add(uid)
        self._by_owner.setdefault(pod.owner_uid, set()).add(uid)
        if pod.made_for:
            self._by_origin.setdefault(pod.origin, set()).add(uid)
        return tuple(owners)

    def release(self, uid: str) -> tuple[str, ...]:
        """Remove a pod that no service controls any more; return the UID of its last service."""
        pod = self._pods.get(uid)
        if pod is None:
            return ()
        self._pods.remove(uid)
        self._unindex(pod)
        return (pod.owner_uid,)

    def drop(self, uid: str) -> RuntimePod | None:
        """Remove a deleted pod, and return it if it was known."""
        pod = self._pods.drop(uid)
        if pod is not None:
            self._unindex(pod)
        return pod

    def _resolve(self, uids: set[str]) -> tuple[RuntimePod, ...]:
        found = (self._pods.get(uid) for uid in uids)
        return tuple(pod for pod in found if pod is not None)

    def _unindex(self, pod: RuntimePod) -> None:
        _discard(self._by_service, _key(pod), pod.uid)
        _discard(self._by_owner, pod.owner_uid, pod.uid)
        if pod.made_for:
            _discard(self._by_origin, pod.origin, pod.uid)


def _discard(index: dict[_Key, set[str]], key: _Key, uid: str) -> None:
    uids = index[key]
    uids.discard(uid)
    if not uids:
        del index[key]


def _key(pod: RuntimePod) -> ServiceKey:
    return ServiceKey(pod.namespace, pod.service)
