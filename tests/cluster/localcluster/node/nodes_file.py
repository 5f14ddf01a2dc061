"""Reads `nodes.yaml`: the nodes, their labels and capacity, and their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import yaml

from .errors import FileError
from .restarts import BackOff

if TYPE_CHECKING:
    from pathlib import Path

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
GPU_RESOURCE: Final = "nvidia.com/gpu"
SUFFIXES: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}


def quantity(text: str) -> Decimal:
    """Return the number of a Kubernetes quantity: 500m → 0.5, 1Gi → 2^30."""
    number = text.rstrip("kMGTim")
    try:
        return Decimal(number) * SUFFIXES[text[len(number) :]]
    except (InvalidOperation, KeyError):
        raise FileError(f"{text!r} is not a quantity") from None


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPUs of one node, as GPU feature discovery labels them."""

    product: str
    """`nvidia.com/gpu.product`, e.g. NVIDIA-GeForce-RTX-4090."""
    memory_mib: int
    """Memory of one GPU, as NVML reports it."""
    count: int = 1
    """Number of GPUs in the node."""
    replicas: int = 1
    """Shares per GPU with time slicing; 1 for an unshared GPU."""
    family: str = ""
    """Architecture, e.g. ada-lovelace; no label if empty."""
    compute: str = ""
    """Compute capability, e.g. 8.9; no label if empty."""

    def labels(self) -> dict[str, str]:
        """Return the labels of GPU feature discovery."""
        labels = {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": self.product + ("-SHARED" if self.replicas > 1 else ""),
            "nvidia.com/gpu.memory": str(self.memory_mib),
            "nvidia.com/gpu.count": str(self.count),
            "nvidia.com/gpu.replicas": str(self.replicas),
            "nvidia.com/gpu.sharing-strategy": "time-slicing" if self.replicas > 1 else "none",
        }
        if self.family:
            labels["nvidia.com/gpu.family"] = self.family
        if self.compute:
            major, _, minor = self.compute.partition(".")
            labels["nvidia.com/gpu.compute.major"] = major
            labels["nvidia.com/gpu.compute.minor"] = minor or "0"
        return labels


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node of the nodes file."""

    name: str
    cpu: str = "16"
    memory: str = "64Gi"
    pods: int = 110
    zone: str = "local-a"
    gpu: Gpu | None = None
    tainted: bool = False
    """Whether the node has the taint `nvidia.com/gpu:NoSchedule`, as most GPU pools do."""
    extra_labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    device_env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """The environment that the fake device plugin sets in containers that request a GPU."""

    def labels(self) -> dict[str, str]:
        """Return all labels of the Node object."""
        return {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": "process",
            "topology.kubernetes.io/region": "local",
            "topology.kubernetes.io/zone": self.zone,
            **(self.gpu.labels() if self.gpu else {}),
            **self.extra_labels,
        }

    def capacity(self) -> dict[str, str]:
        """Return the capacity, which equals the allocatable: nothing is reserved."""
        capacity = {
            "cpu": self.cpu,
            "memory": self.memory,
            "ephemeral-storage": "100Gi",
            "pods": str(self.pods),
        }
        if self.gpu:
            capacity[GPU_RESOURCE] = str(self.gpu.count * max(1, self.gpu.replicas))
        return capacity

    def taints(self) -> list[dict[str, str]]:
        """Return the taints of the Node object."""
        return [{"key": GPU_RESOURCE, "effect": "NoSchedule"}] if self.tainted else []


@dataclass(frozen=True, slots=True)
class Image:
    """The replacement of a container image on this machine."""

    paths: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Path inside the image → path on this machine, relative to the repository."""
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    command: tuple[str, ...] = ()
    """Entry point, for containers without a command."""


@dataclass(frozen=True, slots=True)
class NodesFile:
    """The content of the nodes file."""

    nodes: tuple[NodeSpec, ...]
    images: Mapping[str, Image]
    back_off: BackOff = field(default_factory=BackOff)

    def image(self, reference: str) -> Image | None:
        """Return the image of a reference: an exact match first, then a match without the tag."""
        return self.images.get(reference) or self.images.get(repository(reference))


def repository(reference: str) -> str:
    """Return an image reference without digest and tag; the port of a registry is not a tag."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]


def load(path: Path) -> NodesFile:
    """Read and check a nodes file.

    Raises:
        FileError: a key is wrong; the message names it.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    return parse(document)


def parse(document: Any) -> NodesFile:
    """Parse and check the content of a nodes file."""
    top = _mapping(document, "nodes file", {"nodes", "images", "crashBackOff"})
    nodes = tuple(_node(item, f"nodes[{i}]") for i, item in enumerate(top.get("nodes") or ()))
    if not nodes:
        raise FileError("nodes is empty, must name at least one node")
    if len({node.name for node in nodes}) < len(nodes):
        raise FileError(f"nodes has a name twice: {', '.join(sorted(node.name for node in nodes))}")
    images = {
        name: _image(body or {}, f"images.{name}")
        for name, body in (top.get("images") or {}).items()
    }
    names = {"baseSeconds": "base_s", "maxSeconds": "max_s"}
    limits = _mapping(top.get("crashBackOff") or {}, "crashBackOff", set(names))
    back_off = BackOff(**{names[key]: float(value) for key, value in limits.items()})
    return NodesFile(nodes, MappingProxyType(images), back_off)


def _node(body: Any, where: str) -> NodeSpec:
    keys = {"name", "cpu", "memory", "pods", "zone", "gpu", "taint", "labels", "deviceEnv"}
    node = _mapping(body, where, keys)
    if not node.get("name"):
        raise FileError(f"{where}.name is missing")
    return NodeSpec(
        name=str(node["name"]),
        cpu=str(node.get("cpu", "16")),
        memory=str(node.get("memory", "64Gi")),
        pods=int(node.get("pods", 110)),
        zone=str(node.get("zone", "local-a")),
        gpu=_gpu(node["gpu"], f"{where}.gpu") if node.get("gpu") else None,
        tainted=bool(node.get("taint", False)),
        extra_labels=_texts(node.get("labels"), f"{where}.labels"),
        device_env=_texts(node.get("deviceEnv"), f"{where}.deviceEnv"),
    )


def _gpu(body: Any, where: str) -> Gpu:
    gpu = _mapping(body, where, {"product", "memoryMiB", "count", "replicas", "family", "compute"})
    if missing := {"product", "memoryMiB"} - gpu.keys():
        raise FileError(f"{where}.{min(missing)} is missing")
    return Gpu(
        product=str(gpu["product"]),
        memory_mib=int(gpu["memoryMiB"]),
        count=int(gpu.get("count", 1)),
        replicas=int(gpu.get("replicas", 1)),
        family=str(gpu.get("family", "")),
        compute=str(gpu.get("compute", "")),
    )


def _image(body: Any, where: str) -> Image:
    image = _mapping(body, where, {"paths", "env", "command"})
    return Image(
        paths=_texts(image.get("paths"), f"{where}.paths"),
        env=_texts(image.get("env"), f"{where}.env"),
        command=tuple(str(word) for word in image.get("command") or ()),
    )


def _mapping(body: Any, where: str, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise FileError(f"{where} is not a mapping")
    if unknown := body.keys() - keys:
        raise FileError(f"{where} has the unknown key {min(unknown)!r}")
    return body


def _texts(body: Any, where: str) -> Mapping[str, str]:
    if body is None:
        return EMPTY
    if not isinstance(body, Mapping):
        raise FileError(f"{where} is not a mapping")
    return MappingProxyType({str(key): str(value) for key, value in body.items()})
