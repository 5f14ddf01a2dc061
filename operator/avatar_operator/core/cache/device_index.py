"""Keeps what DRA drivers publish: the GPUs of each node, and those that claims have."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.resources.devices import DeviceGroup
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.resources.devices import (
        Device,
        DeviceClaim,
        DeviceId,
        ResourceSlice,
    )


class DeviceIndex:
    """Slices, claims and classes of devices."""

    def __init__(self) -> None:
        self.slices: Cache[ResourceSlice] = Cache()
        self.claims: Cache[DeviceClaim] = Cache()
        self.classes: Cache[str] = Cache()
        self._groups: dict[str, tuple[DeviceGroup, ...]] | None = None  # None after a change
        self._uses: tuple[PodUse, ...] | None = None  # None after a change

    def put_slice(self, uid: str, version: int, found: ResourceSlice | None) -> bool:
        """Store a slice, None if it has no GPUs; return whether GPUs of a node changed."""
        if found is None:
            changed = self.slices.get(uid) is not None
            self.slices.remove(uid)
        else:
            changed = self.slices.put(uid, version, found)
        return self._changed(changed)

    def drop_slice(self, uid: str) -> bool:
        """Remove a deleted slice, and return whether GPUs of a node changed."""
        return self._changed(self.slices.drop(uid) is not None)

    def put_class(self, uid: str, version: int, name: str) -> bool:
        """Store a DeviceClass, and return whether it is a new one."""
        return self._changed(self.classes.put(uid, version, name))

    def drop_class(self, uid: str) -> bool:
        """Remove a deleted DeviceClass, and return whether it was known."""
        return self._changed(self.classes.drop(uid) is not None)

    def put_claim(self, uid: str, version: int, found: DeviceClaim | None) -> bool:
        """Store a claim, None if it has no GPUs; return whether GPUs became free."""
        before = self.claims.get(uid)
        if found is None:
            self.claims.remove(uid)
        elif not self.claims.put(uid, version, found):
            return False
        self._uses = None
        return before is not None and found is None

    def drop_claim(self, uid: str) -> bool:
        """Remove a deleted claim, and return whether GPUs became free."""
        self._uses = None
        return self.claims.drop(uid) is not None

    def groups(self) -> Mapping[str, tuple[DeviceGroup, ...]]:
        """Return the GPUs of each node, by name of the node."""
        if self._groups is None:
            classes = frozenset(self.classes.values())
            self._groups = group_devices(self.slices.values(), classes)
        return self._groups

    def uses(self) -> tuple[PodUse, ...]:
        """Return the GPUs that claims have, one entry for each node."""
        if self._uses is None:
            taken = {device for claim in self.claims.values() for device in claim.devices}
            self._uses = count_taken(self.slices.values(), taken)
        return self._uses

    def _changed(self, changed: bool) -> bool:
        if changed:
            self._groups = self._uses = None
        return changed


def group_devices(
    slices: Iterable[ResourceSlice], classes: frozenset[str]
) -> dict[str, tuple[DeviceGroup, ...]]:
    """Return the GPUs of each node, alike ones together.

    Only the latest generation of a pool counts, and the scheduler uses a pool only while all its
    slices exist. A pod requests the GPUs by a DeviceClass, so that must exist, too.
    """
    counts: dict[str, Counter[DeviceGroup]] = {}
    for pool in _pools(slices).values():
        missing = pool[0].slices - len(pool)
        incomplete = f"{missing} of {pool[0].slices} ResourceSlices are missing" if missing else ""
        for each in pool:
            for device in each.devices:
                group = _group(each.driver, device.fault or incomplete, device)
                if not group.fault and group.device_class not in classes:
                    absent = f"the DeviceClass {group.device_class} does not exist"
                    group = replace(group, fault=absent)
                counts.setdefault(each.node, Counter())[group] += 1
    return {
        node: tuple(
            replace(group, count=count)
            for group, count in sorted(found.items(), key=lambda item: (item[0].key, item[0].fault))
        )
        for node, found in counts.items()
    }


def count_taken(slices: Iterable[ResourceSlice], taken: set[DeviceId]) -> tuple[PodUse, ...]:
    """Return how many GPUs of each group of each node are among the taken devices."""
    used: dict[str, Counter[str]] = {}
    for pool in _pools(slices).values():
        for each in pool:
            for device in each.devices:
                if (each.driver, each.pool, device.name) in taken and not device.fault:
                    key = _group(each.driver, "", device).key
                    used.setdefault(each.node, Counter())[key] += 1
    return tuple(PodUse.of(node, "", dict(sorted(used[node].items()))) for node in sorted(used))


def _pools(slices: Iterable[ResourceSlice]) -> dict[tuple[str, str], list[ResourceSlice]]:
    """Return the slices of the latest generation of each pool."""
    pools: dict[tuple[str, str], list[ResourceSlice]] = {}
    for each in slices:
        found = pools.setdefault((each.driver, each.pool), [])
        if found and each.generation > found[0].generation:
            found.clear()
        if not found or each.generation == found[0].generation:
            found.append(each)
    return pools


def _group(driver: str, fault: str, device: Device) -> DeviceGroup:
    return DeviceGroup(
        driver=driver,
        product=device.product,
        profile=device.profile,
        memory_mib=device.memory_mib,
        count=0,
        fault=fault,
    )
