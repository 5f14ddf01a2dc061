"""Nodes as public documentation and reports show them, each with its class or its one sentence.

The labels are those of GPU feature discovery, of clouds and of node autoscalers; the devices are
those that DRA drivers publish. The profiles are the shipped ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from avatar_contracts import packaged_files
from avatar_operator.core.cache.device_index import group_devices
from avatar_operator.core.gpus.node_classes import classify
from avatar_operator.core.resources.devices import parse_slice
from avatar_operator.core.resources.gpu_profile import parse_profile
from avatar_operator.core.resources.node import parse_node

Found = dict[str, str]
"""By resource: the class, or a part of the sentence that says why there is none."""

GPU = "nvidia.com/gpu"
KARPENTER = "karpenter.k8s.aws/instance-gpu"
AUTO_MODE = "eks.amazonaws.com/instance-gpu"
GKE = "cloud.google.com/gke"
CLASSES = frozenset({"gpu.nvidia.com", "mig.nvidia.com"})

SHIPPED = tuple(
    parse_profile({"metadata": {"name": name}, "spec": spec})
    for name, spec in packaged_files.gpu_profiles().items()
)


def gfd(product: str, memory: int | str = "", count: int = 1, **more: str) -> dict[str, str]:
    """Return the labels of GPU feature discovery."""
    labels = {f"{GPU}.product": product, f"{GPU}.count": str(count), f"{GPU}.replicas": "1"}
    labels |= {f"{GPU}.present": "true", f"{GPU}.sharing-strategy": "none"}
    if memory:
        labels[f"{GPU}.memory"] = str(memory)
    return labels | {f"{GPU}.{key.replace('_', '-')}": value for key, value in more.items()}


def mig(profile: str, product: str, memory: int, count: int) -> dict[str, str]:
    """Return the labels of a MIG resource with the mixed strategy."""
    prefix = f"nvidia.com/mig-{profile}"
    labels = {"product": f"{product}-MIG-{profile}", "memory": str(memory), "count": str(count)}
    labels |= {"replicas": "1", "sharing-strategy": "none"}
    return {f"{prefix}.{key}": value for key, value in labels.items()}


def cloud(prefix: str, name: str, memory: int, count: int) -> dict[str, str]:
    """Return the labels of Karpenter for AWS, or of EKS Auto Mode."""
    values = {"name": name, "memory": str(memory), "count": str(count), "manufacturer": "nvidia"}
    return {f"{prefix}-{key}": value for key, value in values.items()}


def device(name: str, product: str, memory: str, kind: str = "gpu", **more: Any) -> dict[str, Any]:
    """Return a device as NVIDIA's DRA driver publishes it."""
    profile = {"profile": {"string": more.pop("profile")}} if "profile" in more else {}
    attributes = {"type": {"string": kind}, "productName": {"string": product}, **profile}
    capacity = {"memory": {"value": memory}}
    return {"name": name, "attributes": attributes, "capacity": capacity, **more}


def published(*devices: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    """Return one ResourceSlice of the node with these devices."""
    pool = {"name": "node", "generation": 1, "resourceSliceCount": 1}
    known = {"driver": "gpu.nvidia.com", "nodeName": "node", "pool": pool, "devices": [*devices]}
    return [{"kind": "ResourceSlice", "metadata": {"name": "slice"}, "spec": {**known, **spec}}]


def found_on(
    labels: dict[str, str],
    offers: dict[str, int],
    slices: list[dict[str, Any]] | None = None,
    annotations: dict[str, str] | None = None,
    classes: frozenset[str] = CLASSES,
) -> Found:
    """Classify a node, from the bodies of the API server on."""
    quantities = {name: str(count) for name, count in offers.items()}
    ready = [{"type": "Ready", "status": "True"}]
    node = parse_node(
        {
            "metadata": {"name": "node", "labels": labels, "annotations": annotations or {}},
            "spec": {},
            "status": {"allocatable": quantities, "capacity": quantities, "conditions": ready},
        }
    )
    parsed = (parse_slice(body) for body in slices or ())
    groups = group_devices((each for each in parsed if each is not None), classes)
    node = replace(node, devices=groups.get("node", ()))
    return {part.resource: part.gpu_class or part.reason for part in classify(node, SHIPPED)}


H100 = "NVIDIA-H100-80GB-HBM3"
A100 = "NVIDIA-A100-SXM4-40GB"
A100_80 = "NVIDIA-A100-SXM4-80GB"
SHARED = {"replicas": "4", "sharing_strategy": "time-slicing"}

PLUGGED: list[tuple[str, dict[str, str], dict[str, int], Found]] = [
    # GPU operator with feature discovery: bare metal, k3s, OpenShift, OKE, AKS
    ("DGX A100 40 GB", gfd(A100, 40537, 8), {GPU: 8}, {GPU: "a100-40gb"}),
    ("OKE BM.GPU.A100-v2.8", gfd(A100_80, 81920, 8), {GPU: 8}, {GPU: "a100-80gb"}),
    ("AKS NC24ads A100 v4", gfd("NVIDIA-A100-80GB-PCIe", 81920), {GPU: 1}, {GPU: "a100-80gb"}),
    ("HGX H100", gfd(H100, 81559, 8), {GPU: 8}, {GPU: "h100-80gb"}),
    ("AKS NC40ads H100 v5", gfd("NVIDIA-H100-NVL", 95830), {GPU: 1}, {GPU: "h100-nvl"}),
    ("HGX H200", gfd("NVIDIA-H200", 143771, 8), {GPU: 8}, {GPU: "h200-141gb"}),
    ("HGX B200", gfd("NVIDIA-B200", 183359, 8), {GPU: 8}, {GPU: "b200"}),
    ("OpenShift L40S", gfd("NVIDIA-L40S", 46068, 4), {GPU: 4}, {GPU: "l40s"}),
    ("k3s 3090", gfd("NVIDIA-GeForce-RTX-3090", 24576), {GPU: 1}, {GPU: "rtx-3090"}),
    ("k3s 4090", gfd("NVIDIA-GeForce-RTX-4090", 24564, 2), {GPU: 2}, {GPU: "rtx-4090"}),
    ("T4 of an old driver", gfd("Tesla-T4", 15109), {GPU: 1}, {GPU: "t4"}),
    ("A10 with ECC", gfd("NVIDIA-A10", 23028), {GPU: 1}, {GPU: "a10"}),
    (
        "4090 with 48 GB",
        gfd("NVIDIA-GeForce-RTX-4090", 49140),
        {GPU: 1},
        {GPU: "with 49140 MiB is outside the memory of rtx-4090"},
    ),
    ("A800", gfd("NVIDIA-A800-SXM4-80GB", 81920, 8), {GPU: 8}, {GPU: "no GPUProfile names"}),
    ("H20", gfd("NVIDIA-H20", 97871, 8), {GPU: 8}, {GPU: "no GPUProfile names"}),
    ("GH200", gfd("NVIDIA-GH200-480GB", 97871), {GPU: 1}, {GPU: "no GPUProfile names"}),
    ("GB10 without memory", gfd("NVIDIA-GB10"), {GPU: 1}, {GPU: "product NVIDIA-GB10"}),
    ("A6000", gfd("NVIDIA-RTX-A6000", 49140), {GPU: 1}, {GPU: "product NVIDIA-RTX-A6000"}),
    ("vGPU", gfd("GRID-A10-24Q", 24576), {GPU: 1}, {GPU: "product GRID-A10-24Q"}),
    ("plugin not started", gfd(H100, 81559, 8), {}, {GPU: "h100-80gb"}),
    # Sharing
    (
        "time-sliced T4",
        gfd("Tesla-T4-SHARED", 15360, 1, **SHARED),
        {GPU: 4},
        {GPU: "Tesla-T4 is shared by 4, which t4 does not allow"},
    ),
    (
        "time-sliced, renamed resource",
        gfd("Tesla-T4", 15360, replicas="8", sharing_strategy="time-slicing"),
        {"nvidia.com/gpu.shared": 8},
        {"nvidia.com/gpu.shared": "shared by 8, which t4 does not allow"},
    ),
    (
        "MPS",
        gfd(f"{A100_80}-SHARED", 81920, replicas="10", sharing_strategy="mps"),
        {GPU: 10},
        {GPU: "shared by 10, which a100-80gb does not allow"},
    ),
    (
        "HAMi",
        gfd("NVIDIA-GeForce-RTX-4090", 24564),
        {GPU: 10},
        {GPU: "labels count 1 GPUs, the node offers 10 nvidia.com/gpu: they are split (HAMi"},
    ),
    # MIG
    (
        "MIG single",
        gfd(f"{A100}-MIG-3g.20gb", 19968, 16) | {"nvidia.com/mig.strategy": "single"},
        {GPU: 16},
        {GPU: "a100-3g.20gb"},
    ),
    (
        "MIG single, smallest slices",
        gfd(f"{A100}-MIG-1g.5gb", 4864, 56) | {"nvidia.com/mig.strategy": "single"},
        {GPU: 56},
        {GPU: f"no GPUProfile names the product {A100}-MIG-1g.5gb"},
    ),
    (
        "MIG mixed",
        gfd(A100_80, 81920, 1)
        | {"nvidia.com/mig.strategy": "mixed"}
        | mig("3g.40gb", A100_80, 40192, 2)
        | mig("1g.10gb", A100_80, 9728, 3),
        {GPU: 1, "nvidia.com/mig-1g.10gb": 3, "nvidia.com/mig-3g.40gb": 2},
        {
            GPU: "a100-80gb",
            "nvidia.com/mig-1g.10gb": "no GPUProfile names the product",
            "nvidia.com/mig-3g.40gb": "a100-3g.40gb",
        },
    ),
    (
        "MIG mixed, H100 PCIe",
        {"nvidia.com/mig.strategy": "mixed"} | mig("2g.20gb", "NVIDIA-H100-PCIe", 20096, 3),
        {"nvidia.com/mig-2g.20gb": 3},
        {"nvidia.com/mig-2g.20gb": "h100-2g.20gb"},
    ),
    (
        "MIG half configured",
        gfd(f"{A100}-MIG-INVALID", "0", 0),
        {GPU: 8},
        {GPU: "MIG is configured incompletely"},
    ),
    # Two kinds in one node: feature discovery describes one of them
    (
        "4090 and 3090",
        gfd("NVIDIA-GeForce-RTX-4090", 24564, 1),
        {GPU: 2},
        {GPU: "or of several kinds"},
    ),
    # EKS, with and without Karpenter
    ("Karpenter g6", cloud(KARPENTER, "l4", 22888, 1), {GPU: 1}, {GPU: "l4"}),
    ("Karpenter g5.12xlarge", cloud(KARPENTER, "a10g", 24576, 4), {GPU: 4}, {GPU: "a10g"}),
    ("Karpenter g4dn", cloud(KARPENTER, "t4", 16384, 1), {GPU: 1}, {GPU: "t4"}),
    ("Karpenter p4d", cloud(KARPENTER, "a100", 40960, 8), {GPU: 8}, {GPU: "a100-40gb"}),
    ("Karpenter p4de", cloud(KARPENTER, "a100", 81920, 8), {GPU: 8}, {GPU: "a100-80gb"}),
    ("Karpenter p5", cloud(KARPENTER, "h100", 81920, 8), {GPU: 8}, {GPU: "h100-80gb"}),
    ("Karpenter g5g", cloud(KARPENTER, "t4g", 16384, 1), {GPU: 1}, {GPU: "the product t4g"}),
    ("EKS Auto Mode g6e", cloud(AUTO_MODE, "l40s", 45776, 1), {GPU: 1}, {GPU: "l40s"}),
    (
        "EKS managed nodes without discovery",
        {"node.kubernetes.io/instance-type": "g5.xlarge", "eks.amazonaws.com/nodegroup": "gpu"},
        {GPU: 1},
        {GPU: "no label names the GPU's product"},
    ),
    # GKE
    ("GKE L4", {f"{GKE}-accelerator": "nvidia-l4"}, {GPU: 1}, {GPU: "l4"}),
    ("GKE A100 80 GB", {f"{GKE}-accelerator": "nvidia-a100-80gb"}, {GPU: 8}, {GPU: "a100-80gb"}),
    ("GKE A3 Mega", {f"{GKE}-accelerator": "nvidia-h100-mega-80gb"}, {GPU: 8}, {GPU: "h100-80gb"}),
    ("GKE G4", {f"{GKE}-accelerator": "nvidia-rtx-pro-6000"}, {GPU: 1}, {GPU: "rtx-pro-6000"}),
    (
        "GKE P100",
        {f"{GKE}-accelerator": "nvidia-tesla-p100"},
        {GPU: 1},
        {GPU: "no GPUProfile names the product nvidia-tesla-p100"},
    ),
    (
        "GKE time-sharing",
        {
            f"{GKE}-accelerator": "nvidia-l4",
            f"{GKE}-gpu-sharing-strategy": "time-sharing",
            f"{GKE}-max-shared-clients-per-gpu": "3",
        },
        {GPU: 3},
        {GPU: "NVIDIA-L4 is shared by 3, which l4 does not allow"},
    ),
    (
        "GKE MIG partitions",
        {f"{GKE}-accelerator": "nvidia-tesla-a100", f"{GKE}-gpu-partition-size": "3g.20gb"},
        {GPU: 2},
        {GPU: "a100-3g.20gb"},
    ),
    # AKS, CoreWeave, DigitalOcean without feature discovery
    (
        "AKS without discovery",
        {
            "accelerator": "nvidia",
            "kubernetes.azure.com/accelerator": "nvidia",
            "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4",
        },
        {GPU: 1},
        {GPU: "no label names the GPU's product"},
    ),
    (
        "CoreWeave H100",
        {"gpu.nvidia.com/model": "H100", "gpu.nvidia.com/count": "8"},
        {GPU: 8},
        {GPU: "h100-80gb"},
    ),
    ("CoreWeave A40", {"gpu.nvidia.com/model": "A40"}, {GPU: 8}, {GPU: "the product A40"}),
    (
        "DigitalOcean H100",
        {"doks.digitalocean.com/gpu-brand": "nvidia", "doks.digitalocean.com/gpu-model": "h100"},
        {GPU: 1},
        {GPU: "h100-80gb"},
    ),
    # Other vendors
    (
        "AMD MI300X",
        {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"},
        {"amd.com/gpu": 8},
        {"amd.com/gpu": "AMD GPUs are not supported, only NVIDIA GPUs are"},
    ),
    (
        "Intel Max",
        {"gpu.intel.com/product": "Max_1100", "gpu.intel.com/millicores": "1000"},
        {"gpu.intel.com/i915": 1},
        {"gpu.intel.com/i915": "Intel GPUs are not supported, only NVIDIA GPUs are"},
    ),
    ("Intel Arc", {}, {"gpu.intel.com/xe": 1}, {"gpu.intel.com/xe": "Intel GPUs are not"}),
    ("no GPU", {"kubernetes.io/arch": "amd64"}, {}, {}),
]

H100_DEVICE = "NVIDIA H100 80GB HBM3"
A100_DEVICE = "NVIDIA A100-SXM4-80GB"
POOL = {"name": "node", "generation": 2, "resourceSliceCount": 2}

CLAIMED: list[tuple[str, list[dict[str, Any]], dict[str, int], Found]] = [
    (
        "DRA HGX H100",
        published(*(device(f"gpu-{n}", H100_DEVICE, "81559Mi") for n in range(8))),
        {},
        {f"gpu.nvidia.com/{H100}/81559MiB": "h100-80gb"},
    ),
    (
        "DRA static MIG",
        published(
            *(
                device(f"gpu-0-mig-3g40gb-9-{n}", A100_DEVICE, "40192Mi", "mig", profile="3g.40gb")
                for n in (0, 4)
            )
        ),
        {},
        {f"gpu.nvidia.com/{A100_80}-MIG-3g.40gb/40192MiB": "a100-3g.40gb"},
    ),
    (
        "DRA two kinds in one node",
        published(
            device("gpu-0", "NVIDIA GeForce RTX 4090", "24564Mi"),
            device("gpu-1", "NVIDIA GeForce RTX 3090", "24Gi"),
        ),
        {},
        {
            "gpu.nvidia.com/NVIDIA-GeForce-RTX-3090/24576MiB": "rtx-3090",
            "gpu.nvidia.com/NVIDIA-GeForce-RTX-4090/24564MiB": "rtx-4090",
        },
    ),
    (
        "DRA dynamic MIG",
        published(device("gpu-0", A100_DEVICE, "81920Mi", consumesCounters=[{"counterSet": "g"}])),
        {},
        {f"gpu.nvidia.com/{A100_80}/81920MiB": "(dynamic MIG) are not supported"},
    ),
    (
        "DRA passthrough",
        published(device("gpu-vfio-0", H100_DEVICE, "81559Mi", "vfio")),
        {},
        {f"gpu.nvidia.com/{H100}/81559MiB": "devices of type vfio are not supported"},
    ),
    (
        "DRA tainted device",
        published(
            device("gpu-0", H100_DEVICE, "81559Mi", taints=[{"key": "xid", "effect": "NoExecute"}])
        ),
        {},
        {f"gpu.nvidia.com/{H100}/81559MiB": "the driver has tainted the device"},
    ),
    (
        "DRA incomplete pool",
        published(device("gpu-0", H100_DEVICE, "81559Mi"), pool=POOL),
        {},
        {f"gpu.nvidia.com/{H100}/81559MiB": "1 of 2 ResourceSlices are missing"},
    ),
    (
        "DRA beside the device plugin",
        published(device("gpu-0", H100_DEVICE, "81559Mi")),
        {GPU: 1},
        {
            GPU: "no label names the GPU's product",
            f"gpu.nvidia.com/{H100}/81559MiB": "the device plugin offers the GPUs of this node",
        },
    ),
    (
        "DRA AMD",
        published(device("gpu-0-128", "AMD Instinct MI300X", "192Gi"), driver="gpu.amd.com"),
        {},
        {"gpu.amd.com/AMD-Instinct-MI300X/196608MiB": "AMD GPUs are not supported"},
    ),
    (
        "DRA Intel",
        published(device("0000-03-00-0", "", "16Gi"), driver="gpu.intel.com"),
        {},
        {"gpu.intel.com/unknown/16384MiB": "Intel GPUs are not supported"},
    ),
    (
        "DRA network cards",
        published(device("nic-0", "", "0"), driver="dra.net"),
        {},
        {},
    ),
]


def check(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for resource, text in expected.items():
        names = {profile.name for profile in SHIPPED}
        if text in names:
            assert found[resource] == text
        else:
            assert text in found[resource]
            assert found[resource] not in names


@pytest.mark.parametrize(
    ("labels", "offers", "expected"),
    [pytest.param(*rest, id=name) for name, *rest in PLUGGED],
)
def test_a_node_of_a_device_plugin(
    labels: dict[str, str], offers: dict[str, int], expected: Found
) -> None:
    check(found_on(labels, offers), expected)


@pytest.mark.parametrize(
    ("slices", "offers", "expected"),
    [pytest.param(*rest, id=name) for name, *rest in CLAIMED],
)
def test_a_node_of_a_dra_driver(
    slices: list[dict[str, Any]], offers: dict[str, int], expected: Found
) -> None:
    check(found_on({}, offers, slices), expected)


def test_devices_without_their_class_are_not_used() -> None:
    slices = published(device("gpu-0", H100_DEVICE, "81559Mi"))
    found = found_on({}, {}, slices, classes=frozenset({"mig.nvidia.com"}))
    assert list(found.values()) == ["the DeviceClass gpu.nvidia.com does not exist"]


def test_hami_without_a_count_is_not_used() -> None:
    labels = {f"{GPU}.product": "NVIDIA-L4", f"{GPU}.memory": "23034"}
    annotations = {"hami.io/node-nvidia-register": "GPU-1,10,23034,100,NVIDIA-L4,0,true:"}
    found = found_on(labels, {GPU: 10}, annotations=annotations)
    assert "HAMi offers the GPUs" in found[GPU]


def test_the_table_is_long_enough() -> None:
    assert len({name for name, *_ in (*PLUGGED, *CLAIMED)}) >= 40
