"""ResourceSlice, ResourceClaim and DeviceClass of resource.k8s.io/v1, as far as GPUs need them.

Attributes and capacities are those that the drivers of the vendors publish, see
docs/gpu-classes.md. Slices of other drivers and claims without GPUs are not kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core.resources.fields import split_body
from avatar_operator.core.resources.quantities import read_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fields

DeviceId = tuple[str, str, str]
"""Driver, pool and name of a device."""

_NOT_IN_LABELS: Final = re.compile(r"[^A-Za-z0-9-_. ]")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a slice."""

    name: str
    kind: str
    """The attribute `type`: gpu, mig or vfio for NVIDIA."""
    product: str
    """As the driver names it, for example NVIDIA H100 80GB HBM3."""
    profile: str
    """MIG profile, for example 3g.40gb; empty for a whole GPU."""
    memory_mib: int | None
    fault: str
    """Why pods cannot get it as a GPU of their own; empty if they can."""


@dataclass(frozen=True, slots=True)
class ResourceSlice:
    """Devices of one node, or a part of them."""

    driver: str
    pool: str
    generation: int
    slices: int
    """Number of slices of this generation of the pool."""
    node: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """The devices that a ResourceClaim has."""

    pod_uid: str
    """The pod that the claim was made for; empty if it is not known."""
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices of one node that are alike; pods get them by a claim."""

    driver: str
    product: str
    profile: str
    memory_mib: int | None
    count: int
    fault: str = ""

    @property
    def device_class(self) -> str:
        """The DeviceClass of NVIDIA's driver that selects these devices."""
        return names.MIG_DEVICE_CLASS if self.profile else names.GPU_DEVICE_CLASS

    @property
    def label(self) -> str:
        """The product as GPU feature discovery would label it."""
        words = _NOT_IN_LABELS.sub("", self.product).split()
        return "-".join(words) + (f"-MIG-{self.profile}" if self.profile else "")

    @property
    def key(self) -> str:
        """Name of the group within its node."""
        memory = "" if self.memory_mib is None else f"/{self.memory_mib}MiB"
        return f"{self.driver}/{self.label or 'unknown'}{memory}"


def parse_slice(body: Mapping[str, object]) -> ResourceSlice | None:
    """Return the GPUs of a slice, None if it has none that belong to one node."""
    _, spec, _ = split_body(body)
    driver, node = spec.text("driver"), spec.text("nodeName")
    if driver not in names.DRA_DRIVERS or not node:
        return None
    pool = spec.child("pool")
    return ResourceSlice(
        driver=driver,
        pool=pool.text("name"),
        generation=pool.integer("generation", 0, 0, 2**63),
        slices=pool.integer("resourceSliceCount", 1, 1, 2**31),
        node=node,
        devices=tuple(_device(item, driver) for item in spec.children("devices")),
    )


def parse_claim(body: Mapping[str, object]) -> DeviceClaim | None:
    """Return the GPUs that a claim has, None if it has none.

    Devices for administrators are not in use by this claim.
    """
    metadata, _, status = split_body(body)
    found = []
    for result in status.child("allocation").child("devices").children("results"):
        driver = result.text("driver")
        if driver in names.DRA_DRIVERS and not result.flag("adminAccess", False):
            found.append((driver, result.text("pool"), result.text("device")))
    if not found:
        return None
    pods = (each.text("uid") for each in metadata.children("ownerReferences") if _is_pod(each))
    return DeviceClaim(next(pods, ""), tuple(found))


def parse_device_class(body: Mapping[str, object]) -> str:
    """Return the name of a DeviceClass."""
    metadata, _, _ = split_body(body)
    return metadata.text("name")


def _is_pod(owner: Fields) -> bool:
    return (owner.text("apiVersion"), owner.text("kind")) == ("v1", "Pod")


def _device(fields: Fields, driver: str) -> Device:
    attributes, capacity = fields.child("attributes"), fields.child("capacity")

    def text(name: str) -> str:
        return _named(attributes, name, driver).text("string")

    memory = read_quantity(_named(capacity, "memory", driver).raw("value"))
    kind = text("type")
    return Device(
        name=fields.text("name"),
        kind=kind,
        product=text("productName"),
        profile=text("profile") if kind == "mig" else "",
        memory_mib=None if memory is None else int(memory // 2**20),
        fault=_fault(fields, kind, names.DRA_DRIVERS[driver]),
    )


def _named(fields: Fields, name: str, driver: str) -> Fields:
    """Return an attribute or a capacity; its name may be qualified by the driver."""
    return fields.child(name if fields.has(name) else f"{driver}/{name}")


def _fault(device: Fields, kind: str, vendor: str) -> str:
    """Return why a device cannot be used; "" if it can."""
    if vendor != names.NVIDIA:
        return f"{vendor} GPUs are not supported, only NVIDIA GPUs are"
    if kind not in ("gpu", "mig"):
        return f"devices of type {kind or 'unknown'} are not supported, only gpu and mig are"
    if device.has("consumesCounters"):
        return "partitions that the driver makes on demand (dynamic MIG) are not supported"
    if device.flag("allowMultipleAllocations", False):
        return "a device of several claims is not supported"
    effects = [taint.text("effect") for taint in device.children("taints")]
    if any(effect in ("NoSchedule", "NoExecute") for effect in effects):
        return "the driver has tainted the device"
    return ""
