"""Keeps the GPU use of every pod, summed by node and GPU class."""

from __future__ import annotations

from collections import Counter
from typing import Final

from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.resources.pod import PodUse

ACCEPTED_S: Final = 10.0
"""A pod that has no node this long after its creation does not hold a GPU any more. The scheduler
usually accepts or rejects a pod within milliseconds."""


class GPUUsage:
    """The GPUs that pods use, with sums that are updated at each change."""

    def __init__(self) -> None:
        self._pods: Cache[PodUse | None] = Cache()  # None: uses no GPU, or no longer does
        self._sums: dict[tuple[str, str], PodUse] = {}  # by node and GPU class
        self._list: tuple[PodUse, ...] | None = None  # None after a change
        self._unbound: dict[str, float] = {}  # by UID: when the use of a pod without a node ends
        self._reserved: dict[str, PodUse] = {}  # by NAMESPACE/NAME of a pod to be created
        self._allocated: set[str] = set()  # UIDs of pods whose claim has a GPU

    def reserve(self, pod: str, use: PodUse) -> None:
        """Count the GPUs of a pod that is about to be created, until `release`."""
        self._replace(self._reserved.get(pod), use)
        self._reserved[pod] = use

    def release(self, pod: str) -> bool:
        """End the reservation of a pod, and return whether there was one."""
        use = self._reserved.pop(pod, None)
        self._replace(use, None)
        return use is not None

    def put(self, uid: str, version: int, use: PodUse | None, created_at: float) -> bool:
        """Store the use of a pod, and return whether the pod released its GPUs.

        `created_at` is in seconds since 1970. A pod without a node counts for `ACCEPTED_S`.
        """
        if use is not None and use.is_claim and uid in self._allocated:
            use = None  # the GPU of its claim counts instead
        before = self._pods.get(uid)
        if (use or before) is None or not self._pods.put(uid, version, use):
            return False
        self._unbound.pop(uid, None)
        if use is not None and not use.node:
            self._unbound[uid] = created_at + ACCEPTED_S
        self._replace(before, use)
        return use is None

    def allocate(self, uid: str) -> None:
        """End the use of a pod by a claim: the claim has a GPU, which counts instead."""
        self._allocated.add(uid)
        before, version = self._pods.get(uid), self._pods.version(uid)
        if before is not None and before.is_claim and version is not None:
            self.put(uid, version, None, 0.0)

    def deallocate(self, uid: str) -> None:
        """Forget that the claim of a pod has a GPU, because the claim was deleted."""
        self._allocated.discard(uid)

    def expire(self, now: float) -> None:
        """End the use of the pods that no node has accepted in time."""
        for uid in [uid for uid, at in self._unbound.items() if at <= now]:
            del self._unbound[uid]
            before, version = self._pods.get(uid), self._pods.version(uid)
            if version is not None and self._pods.put(uid, version, None):
                self._replace(before, None)

    def next_expiry(self) -> float | None:
        """Return when the next use ends by itself, in seconds since 1970; None if none does."""
        return min(self._unbound.values(), default=None)

    def drop(self, uid: str) -> bool:
        """Remove a deleted pod, and return whether it used GPUs until now."""
        self._unbound.pop(uid, None)
        self._allocated.discard(uid)
        before = self._pods.drop(uid)
        self._replace(before, None)
        return before is not None

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of all pods that use or used GPUs."""
        return self._pods.uids()

    def sums(self) -> tuple[PodUse, ...]:
        """Return the GPU use of all pods together, one entry for each node and class."""
        if self._list is None:
            self._list = tuple(self._sums.values())
        return self._list

    def _replace(self, before: PodUse | None, after: PodUse | None) -> None:
        self._list = None
        for use, sign in ((before, -1), (after, 1)):
            if use is None:
                continue
            key = (use.node, use.gpu_class)
            known = self._sums.get(key)
            total = Counter({} if known is None else known.counts)
            for resource, count in use.counts.items():
                total[resource] += sign * count
            if any(total.values()):
                self._sums[key] = PodUse.of(*key, total)  # the other entries stay the same objects
            else:
                self._sums.pop(key, None)
