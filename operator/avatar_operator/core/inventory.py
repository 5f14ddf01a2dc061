"""Finds the GPU class of every node, and what is free of each class.

The traps of node labels (sharing, MIG, old feature discovery, none at all) end
here: everything behind works with classes.
"""

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from avatar_operator import names
from avatar_operator.core import model

BYTES_FROM: Final = 10_000_000
"""A memory label above this is in bytes: an old feature discovery wrote it so (GFD #26)."""

_SHARED: Final = "-SHARED"
_PREFIX: Final = "NVIDIA-"
_MIG: Final = re.compile(r"-MIG-(INVALID|\d+g\.\d+gb)", re.IGNORECASE)

_CLOUD_LABELS: Final[Mapping[str, Mapping[str, str]]] = {
    # Where feature discovery does not run: the product as it would have named it.
    "cloud.google.com/gke-accelerator": {
        "nvidia-l4": "NVIDIA-L4",
        "nvidia-tesla-a100": "NVIDIA-A100-SXM4-40GB",
        "nvidia-a100-80gb": "NVIDIA-A100-SXM4-80GB",
        "nvidia-h100-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h100-mega-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h200-141gb": "NVIDIA-H200",
    },
    "gpu.nvidia.com/model": {"H200": "NVIDIA-H200", "L40S": "NVIDIA-L40S", "L4": "NVIDIA-L4"},
    "karpenter.k8s.aws/instance-gpu-name": {
        "l4": "NVIDIA-L4",
        "l40s": "NVIDIA-L40S",
        "h200": "NVIDIA-H200",
    },
}


@dataclass(frozen=True, slots=True)
class Labels:
    """What a node's labels say of its GPUs."""

    product: str  # without the sharing suffix, "" if nothing tells
    memory_mib: int | None  # of the whole GPU; None if nothing tells
    replicas: int  # pods that share one GPU; 1 is not shared
    selector: tuple[tuple[str, str], ...]  # labels by which the scheduler finds such nodes


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A node with the class of its GPUs, or with the reason why it has none."""

    node: model.Node
    gpu_class: str | None
    memory_mib: int  # that one pod may use
    selector: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ClassStock:
    """The GPUs of one class that a service could use."""

    gpu_class: str
    memory_mib: int  # of its smallest GPU, or the profile's least if there is none
    total: int
    free: int
    selectors: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What GPUs there are, by class, and which nodes were left out and why."""

    stocks: Mapping[str, ClassStock]  # one for every profile
    left_out: tuple[tuple[str, str], ...]  # node and reason, by node


def take(
    nodes: Iterable[model.Node],
    uses: Iterable[model.PodUse],
    profiles: Sequence[model.GPUProfile],
    placement: model.Placement,
) -> Inventory:
    """Count the GPUs that pods placed by `placement` could use.

    Every pod in the cluster counts, whoever owns it. Pods of ours that are not
    bound yet count against the class that they are pinned to.
    """
    used: dict[str, int] = {}
    coming: dict[str, int] = {}
    for use in uses:
        if use.node:
            used[use.node] = used.get(use.node, 0) + use.gpus
        elif use.gpu_class:
            coming[use.gpu_class] = coming.get(use.gpu_class, 0) + use.gpus
    by_class: dict[str, list[NodeClass]] = {profile.name: [] for profile in profiles}
    left_out: list[tuple[str, str]] = []
    for node in sorted(nodes, key=lambda node: node.name):
        if not node.gpus and names.LABEL_PRODUCT not in node.labels:
            continue  # a node without GPUs is none of our business
        found = classify(node, profiles)
        why_not = _unusable(node, placement) if found.gpu_class else found.reason
        if why_not:
            left_out.append((node.name, why_not))
        if found.gpu_class and not why_not:
            by_class[found.gpu_class].append(found)
    stocks = {
        profile.name: _stock(profile, by_class[profile.name], used, coming.get(profile.name, 0))
        for profile in profiles
    }
    return Inventory(stocks, tuple(left_out))


def classify(node: model.Node, profiles: Sequence[model.GPUProfile]) -> NodeClass:
    """Return the class of a node's GPUs; exactly one profile must match."""
    labels = read_labels(node.labels)

    def unknown(reason: str) -> NodeClass:
        return NodeClass(node, None, 0, labels.selector, reason)

    if not labels.product:
        return unknown("no label tells the GPU's product (is GPU feature discovery running?)")
    if "MIG-INVALID" in labels.product.upper():
        return unknown(f"MIG is half configured ({labels.product})")
    if labels.memory_mib == 0:
        return unknown(f"{labels.product} is labelled with a memory of 0")
    named = [profile for profile in profiles if _names(profile, labels.product)]
    fitting = [profile for profile in named if _holds(profile, labels.memory_mib)]
    if not named:
        return unknown(f"no GPUProfile names the product {labels.product}")
    if not fitting:
        of = ", ".join(profile.name for profile in named)
        return unknown(
            f"{labels.product} with {labels.memory_mib} MiB is outside the memory of {of}"
        )
    if len(fitting) > 1:
        of = ", ".join(profile.name for profile in fitting)
        return unknown(f"{labels.product} belongs to several GPUProfiles: {of}")
    profile = fitting[0]
    if labels.replicas > 1 and not profile.allow_shared:
        return unknown(
            f"{labels.product} is shared by {labels.replicas}, {profile.name} forbids it"
        )
    whole = labels.memory_mib if labels.memory_mib is not None else profile.memory_min_mib
    return NodeClass(node, profile.name, whole // labels.replicas, labels.selector, "")


def read_labels(labels: Mapping[str, str]) -> Labels:
    """Read what feature discovery, or else the cloud, says of a node's GPUs."""
    product = labels.get(names.LABEL_PRODUCT, "")
    if not product:
        return _cloud(labels)
    replicas = _number(labels.get(names.LABEL_REPLICAS)) or 1  # 0 on parents of MIG
    sharing = labels.get(names.LABEL_SHARING, "none")
    if replicas == 1 and (product.endswith(_SHARED) or sharing != "none"):
        replicas = 2  # shared, though not said by how many: at least by two
    memory = _number(labels.get(names.LABEL_MEMORY))
    if memory is not None and memory > BYTES_FROM:
        memory //= 2**20
    telling = (names.LABEL_PRODUCT, names.LABEL_MEMORY, names.LABEL_SHARING, names.LABEL_REPLICAS)
    selector = tuple((key, labels[key]) for key in telling if key in labels)
    return Labels(product.removesuffix(_SHARED), memory, replicas, selector)


def tolerates(tolerations: Collection[model.Toleration], taint: model.Taint) -> bool:
    """Return whether one of the tolerations matches a taint, as the scheduler does."""
    return any(
        (not toleration.effect or toleration.effect == taint.effect)
        and (
            (toleration.operator == "Exists" and toleration.key in ("", taint.key))
            or (
                toleration.operator == "Equal"
                and (toleration.key, toleration.value) == (taint.key, taint.value)
            )
        )
        for toleration in tolerations
    )


GPU_TOLERATION: Final = model.Toleration(key=names.GPU_RESOURCE, operator="Exists")
"""GPU pools usually carry this taint, so that only GPU pods land there."""


def _cloud(labels: Mapping[str, str]) -> Labels:
    for key, products in _CLOUD_LABELS.items():
        product = products.get(labels.get(key, ""), "")
        if product:
            return Labels(product, None, 1, ((key, labels[key]),))
    return Labels("", None, 1, ())


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _names(profile: model.GPUProfile, product: str) -> bool:
    """Match as globs, with or without NVIDIA's name; MIG only where the glob names it."""
    bare = product.removeprefix(_PREFIX)
    is_mig = _MIG.search(product) is not None
    return any(
        fnmatch.fnmatchcase(bare, glob.removeprefix(_PREFIX)) or fnmatch.fnmatchcase(product, glob)
        for glob in profile.products
        if not is_mig or "MIG" in glob
    )


def _holds(profile: model.GPUProfile, memory_mib: int | None) -> bool:
    return memory_mib is None or profile.memory_min_mib <= memory_mib <= profile.memory_max_mib


def _unusable(node: model.Node, placement: model.Placement) -> str:
    if not node.ready:
        return "not ready"
    if node.unschedulable:
        return "cordoned"
    for key, value in placement.node_selector:
        if node.labels.get(key) != value:
            return f"label {key} is not {value!r}, as spec.placement.nodeSelector asks"
    tolerations = (GPU_TOLERATION, *placement.tolerations)
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return f"taint {taint.key}:{taint.effect} is not tolerated"
    return ""


def _stock(
    profile: model.GPUProfile, nodes: Sequence[NodeClass], used: Mapping[str, int], coming: int
) -> ClassStock:
    # A dying device lowers what is allocatable below what is in use: never below 0.
    free = sum(max(0, found.node.gpus - used.get(found.node.name, 0)) for found in nodes)
    return ClassStock(
        gpu_class=profile.name,
        memory_mib=min((found.memory_mib for found in nodes), default=profile.memory_min_mib),
        total=sum(found.node.gpus for found in nodes),
        free=max(0, free - coming),
        selectors=tuple(sorted({found.selector for found in nodes})),
    )
