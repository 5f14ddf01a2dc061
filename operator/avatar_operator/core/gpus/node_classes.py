"""Finds the GPU class of each node from its labels.

This module handles all special cases of node labels (sharing, MIG, old feature discovery, no
labels). All other modules use GPU classes only.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core.gpus.cloud_labels import CLOUDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.resources.devices import DeviceGroup
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node

BYTES_FROM: Final = 10_000_000
"""A memory label above this is in bytes, as old feature discovery wrote it (GFD issue 26)."""

Selector = tuple[tuple[str, str], ...]
"""Labels by which the scheduler selects nodes; the value "" means that the label is missing."""

_SHARED: Final = "-SHARED"
_PREFIX: Final = "NVIDIA-"
_MIG: Final = "-MIG-"


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of a node report about the GPUs behind one resource."""

    products: tuple[str, ...]
    """Without the sharing suffix; one of several if the name is ambiguous; empty: unknown."""
    memory_mib: int | None
    """Memory of the whole GPU; None if it is unknown."""
    replicas: int | None
    """Pods that share one GPU; 1 if it is not shared, None if the number is unknown."""
    count: int | None
    """GPUs; None if the number is unknown."""
    selector: Selector
    measured: bool = True
    """Whether feature discovery read the values from the driver; a cloud lists nominal ones."""
    known: bool = True
    """Whether the product is one that this package knows by the name of the cloud."""


@dataclass(frozen=True, slots=True)
class NodeClass:
    """The GPUs of a node behind one resource, with their class or why they have none."""

    node: Node
    resource: str
    gpus: int
    """Allocatable GPUs."""
    gpu_class: str | None
    memory_mib: int
    """Memory that one pod may use."""
    shared: bool
    selector: Selector
    reason: str
    warning: str = ""
    """An inconsistency of the labels of GPUs that have a class."""
    candidates: tuple[str, ...] = ()
    """Profiles that match the labels of GPUs that have no class."""
    device: DeviceGroup | None = None
    """The GPUs, if a DRA driver publishes them; `resource` is its key then."""

    @property
    def request(self) -> str:
        """What a pod requests: a resource, or a DeviceClass in a claim."""
        return self.resource if self.device is None else self.device.device_class


def classify(node: Node, profiles: Sequence[GPUProfile]) -> tuple[NodeClass, ...]:
    """Return the GPUs of a node, one entry for each resource that offers them.

    The class of an entry is the only profile that matches. A node without GPUs has no entry. A node
    whose device plugin has not started has one entry with 0 GPUs.
    """
    offers = [
        (resource, count)
        for resource, count in ((names.GPU_RESOURCE, node.gpus), *node.others)
        if count
    ]
    if not offers and not node.devices and names.LABEL_PRODUCT in node.labels:
        offers = [(names.GPU_RESOURCE, 0)]
    plugged = tuple(
        _classify(node, resource, count, profiles, read_labels(node.labels, resource))
        for resource, count in offers
    )
    return plugged + tuple(_classify_group(node, each, profiles) for each in node.devices)


def _classify_group(node: Node, group: DeviceGroup, profiles: Sequence[GPUProfile]) -> NodeClass:
    """Return the class of GPUs that a DRA driver publishes.

    The product comes from the driver, and a pod gets only a device of it, so that no label of the
    node counts.
    """
    fault = group.fault
    if not fault and (node.gpus or any(_is_plugged(name) for name, _ in node.others)):
        fault = "the device plugin offers the GPUs of this node, so its ResourceSlices are not used"
    if fault:
        return NodeClass(*(node, group.key, group.count, None, 0, False, (), fault), device=group)
    products = (group.label,) if group.label else ()
    labels = Labels(products, group.memory_mib, replicas=1, count=None, selector=())
    bare = replace(node, is_hami=False)
    found = _classify(bare, group.key, group.count, profiles, labels)
    return replace(found, node=node, device=group)


def _is_plugged(resource: str) -> bool:
    return resource == names.SHARED_RESOURCE or resource.startswith(names.MIG_RESOURCES)


def _classify(
    node: Node, resource: str, gpus: int, profiles: Sequence[GPUProfile], labels: Labels
) -> NodeClass:
    replicas = labels.replicas if labels.replicas is not None else _replicas(node, resource, labels)
    shared = labels.replicas != 1
    product = " or ".join(labels.products)

    def unknown(reason: str, candidates: tuple[str, ...] = ()) -> NodeClass:
        return NodeClass(
            node, resource, gpus, None, 0, shared, labels.selector, reason, "", candidates
        )

    if vendor := names.UNSUPPORTED_RESOURCES.get(resource):
        return unknown(f"{vendor} GPUs are not supported, only NVIDIA GPUs are")
    if not product:
        return unknown("no label names the GPU's product (is GPU feature discovery running?)")
    if "MIG-INVALID" in product.upper():
        return unknown(f"MIG is configured incompletely ({product})")
    if labels.memory_mib == 0:
        return unknown(f"{product} has a memory label of 0")
    named = [profile for profile in profiles if _names(profile, labels.products)]
    fitting = [profile for profile in named if _holds(profile, labels.memory_mib)]
    of = ", ".join(profile.name for profile in fitting or named)
    if not named:
        return unknown(f"no GPUProfile names the product {product}")
    if not fitting:
        return unknown(f"{product} with {labels.memory_mib} MiB is outside the memory of {of}")
    if len(fitting) > 1:
        candidates = tuple(profile.name for profile in fitting)
        return unknown(f"{product} belongs to several GPUProfiles: {of}", candidates)
    profile = fitting[0]
    if surplus := _surplus(node, resource, gpus, labels):
        return unknown(surplus, (profile.name,))
    if shared and not profile.allow_shared:
        by = "an unknown number of pods" if replicas is None else str(replicas)
        return unknown(f"{product} is shared by {by}, which {profile.name} does not allow")
    if replicas is None:
        return unknown(f"{product} is shared, and no label reports by how many pods")
    whole = profile.memory_min_mib
    if labels.memory_mib is not None and labels.measured:
        whole = labels.memory_mib
    return NodeClass(
        node=node,
        resource=resource,
        gpus=gpus,
        gpu_class=profile.name,
        memory_mib=whole // replicas,
        shared=shared,
        selector=labels.selector,
        reason="",
        warning=_warning(node, resource, labels, replicas, profile),
    )


def read_labels(labels: Mapping[str, str], resource: str = names.GPU_RESOURCE) -> Labels:
    """Read the labels of feature discovery, or else of the cloud, for one resource."""
    is_mig = resource.startswith(names.MIG_RESOURCES)
    prefix = resource if is_mig else names.GPU_RESOURCE
    product = labels.get(f"{prefix}.product", "")
    of_whole = is_mig and not product and names.LABEL_PRODUCT in labels
    if of_whole:
        slices = resource.removeprefix(names.MIG_RESOURCES)
        product = f"{labels[names.LABEL_PRODUCT].removesuffix(_SHARED)}-MIG-{slices}"
    if not product:
        return _cloud(labels) if resource == names.GPU_RESOURCE else Labels((), None, 1, None, ())
    replicas: int | None = _number(labels.get(f"{prefix}.replicas")) or 1  # 0 on parents of MIG
    sharing = labels.get(f"{prefix}.sharing-strategy", "none")
    marked = product.endswith(_SHARED) or sharing != "none" or resource == names.SHARED_RESOURCE
    if replicas == 1 and marked:
        replicas = None
    identifying = [
        f"{prefix}.{key}" for key in ("product", "memory", "sharing-strategy", "replicas")
    ]
    if of_whole:  # slices of GPUs of other products have the same resource
        identifying.append(names.LABEL_PRODUCT)
    return Labels(
        products=(product.removesuffix(_SHARED),),
        memory_mib=_mebibytes(labels.get(f"{prefix}.memory")),
        replicas=replicas,
        count=_number(labels.get(f"{prefix}.count")),
        selector=_selector(labels, identifying),
    )


def _cloud(labels: Mapping[str, str]) -> Labels:
    """Read the labels of the cloud.

    A name that is not known stands for itself, so that a profile can name it.
    """
    present = [(key, cloud) for key, cloud in CLOUDS.items() if labels.get(key)]
    known = [(key, cloud) for key, cloud in present if labels[key] in cloud.products]
    for key, cloud in known or present:
        products = cloud.products.get(labels[key], (labels[key],))
        if part := labels.get(cloud.slice_label):
            products = tuple(f"{product}{_MIG}{part}" for product in products)
        optional = (key, cloud.memory_label, cloud.replicas_label, cloud.slice_label)
        identifying = [label for label in (*optional, names.LABEL_PRODUCT) if label]
        return Labels(
            products=products,
            memory_mib=_mebibytes(labels.get(cloud.memory_label)),
            replicas=_number(labels.get(cloud.replicas_label)) or 1,
            count=_number(labels.get(cloud.count_label)),
            selector=_selector(labels, identifying),
            measured=False,
            known=bool(known),
        )
    return Labels((), None, 1, None, ())


def _selector(labels: Mapping[str, str], identifying: Iterable[str]) -> Selector:
    """Return the selector of nodes with exactly these labels: others may have another class."""
    return tuple((key, labels.get(key, "")) for key in identifying)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _mebibytes(text: str | None) -> int | None:
    memory = _number(text)
    return memory // 2**20 if memory is not None and memory > BYTES_FROM else memory


def _names(profile: GPUProfile, products: Iterable[str]) -> bool:
    """Match glob patterns, with or without the prefix NVIDIA-; MIG only if the pattern names it."""
    return any(
        fnmatch.fnmatchcase(product.removeprefix(_PREFIX), glob.removeprefix(_PREFIX))
        or fnmatch.fnmatchcase(product, glob)
        for product in products
        for glob in profile.products
        if _MIG not in product.upper() or "MIG" in glob.upper()
    )


def _holds(profile: GPUProfile, memory_mib: int | None) -> bool:
    return memory_mib is None or profile.memory_min_mib <= memory_mib <= profile.memory_max_mib


def _replicas(node: Node, resource: str, labels: Labels) -> int | None:
    """Compute how many pods share a GPU: the device plugin offers each GPU that often."""
    capacity = dict(node.capacity).get(resource, 0)
    if not labels.count or capacity <= labels.count or capacity % labels.count:
        return None
    return capacity // labels.count


def _surplus(node: Node, resource: str, gpus: int, labels: Labels) -> str:
    """Say if a node offers more GPUs than its labels explain; "" if it does not.

    The GPUs are then split without a label, or of several kinds of which the labels describe one.
    In both cases a pod could get less memory than its class has, so none of them is used.
    """
    if labels.replicas is None:
        return ""  # what the node offers gives the number of replicas
    mixed = node.labels.get(names.LABEL_MIG_STRATEGY) == "mixed"  # the count may hold the parents
    offered = 0 if mixed else max(gpus, dict(node.capacity).get(resource, 0))
    if labels.count and offered > labels.count * labels.replicas:
        counted = f"{labels.count} GPUs"
        if labels.replicas > 1:
            counted += f" shared by {labels.replicas}"
        by = "HAMi" if node.is_hami else "HAMi or time-slicing"
        return (
            f"labels count {counted}, the node offers {offered} {resource}: they are split ({by}) "
            "or of several kinds"
        )
    if node.is_hami and not labels.count:
        return f"HAMi offers the GPUs, and no label counts them: each {resource} may be a part"
    return ""


def _warning(node: Node, resource: str, labels: Labels, replicas: int, profile: GPUProfile) -> str:
    """Describe inconsistent labels: of GPUs that are missing, or of two sources."""
    capacity = dict(node.capacity).get(resource)
    if node.labels.get(names.LABEL_MIG_STRATEGY) == "mixed":
        capacity = None  # the count may hold GPUs that are offered as slices
    if labels.count and capacity is not None and labels.count * replicas > capacity:
        return (
            f"labels count {labels.count} GPUs shared by {replicas}, the node has {capacity} "
            "(have some failed, or are they assigned to another resource?)"
        )
    cloud = _cloud(node.labels)
    named = cloud.products if labels.measured and cloud.known else ()
    if named and resource == names.GPU_RESOURCE and not _names(profile, named):
        return f"labels differ: feature discovery says {labels.products[0]}, the cloud {named[0]}"
    return ""
