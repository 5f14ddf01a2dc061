from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus import inventory, node_classes
from avatar_operator.core.resources.node import parse_node
from avatar_operator.core.resources.placement import Placement
from avatar_operator.core.resources.pod import PodUse

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node

PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"


def one(node: Node, profiles: tuple[GPUProfile, ...]) -> node_classes.NodeClass:
    """Classify a node that offers its GPUs by one resource."""
    (found,) = node_classes.classify(node, profiles)
    return found


def labels(product: str, memory: str | None = None, **more: str) -> dict[str, str]:
    found = {PRODUCT: product} if memory is None else {PRODUCT: product, MEMORY: memory}
    return found | {f"nvidia.com/gpu.{key.replace('_', '-')}": more[key] for key in more}


@pytest.mark.parametrize(
    ("found", "gpu_class"),
    [
        pytest.param(labels("NVIDIA-GeForce-RTX-4090", "24564"), "rtx-4090", id="4090"),
        pytest.param(labels("NVIDIA-GeForce-RTX-4090", "23028"), "rtx-4090", id="4090 with ECC"),
        pytest.param(labels("NVIDIA-GeForce-RTX-4090-D", "24564"), "rtx-4090", id="4090 D"),
        pytest.param(labels("GeForce-RTX-4090", "24564"), "rtx-4090", id="no NVIDIA prefix"),
        pytest.param(labels("NVIDIA-A100-SXM4-40GB", "39538"), "a100-40gb", id="A100 old driver"),
        pytest.param(labels("NVIDIA-A100-PCIE-40GB", "40960"), "a100-40gb", id="A100 PCIe 40"),
        pytest.param(labels("NVIDIA-A100-80GB-PCIe", "81920"), "a100-80gb", id="A100 PCIe 80"),
        pytest.param(labels("A100-SXM4-80GB", "81920"), "a100-80gb", id="A100 without prefix"),
        pytest.param(labels("NVIDIA-H100-80GB-HBM3", "81559"), "h100-80gb", id="H100 SXM"),
        pytest.param(labels("NVIDIA-H100-PCIe", "81559"), "h100-80gb", id="H100 PCIe"),
        pytest.param(labels("NVIDIA-H200", "143771"), "h200-141gb", id="H200"),
        pytest.param(labels("NVIDIA-L40S", "46068"), "l40s", id="L40S"),
        pytest.param(labels("NVIDIA-L4", "23034"), "l4", id="L4"),
        pytest.param(labels("NVIDIA-GeForce-RTX-4090", str(24564 * 2**20)), "rtx-4090", id="bytes"),
        pytest.param(labels("NVIDIA-GeForce-RTX-4090"), "rtx-4090", id="no memory label"),
        pytest.param(
            labels("NVIDIA-GeForce-RTX-4090", "24564", replicas="0"), "rtx-4090", id="replicas 0"
        ),
        pytest.param(labels("NVIDIA-A10G", "23028"), "a10g", id="A10G"),
        pytest.param(labels("NVIDIA-A10", "23028"), "a10", id="A10"),
        pytest.param(labels("Tesla-T4", "15360"), "t4", id="T4"),
        pytest.param(labels("Tesla-T4", "15109"), "t4", id="T4 old driver"),
        pytest.param(labels("Tesla-V100-SXM2-16GB", "16384"), "v100-16gb", id="V100 16 GB"),
        pytest.param(labels("Tesla-V100-PCIE-32GB", "32768"), "v100-32gb", id="V100 32 GB"),
        pytest.param(labels("NVIDIA-GeForce-RTX-3090", "24576"), "rtx-3090", id="3090"),
        pytest.param(labels("NVIDIA-GeForce-RTX-5090", "32607"), "rtx-5090", id="5090"),
        pytest.param(labels("NVIDIA-H100-NVL", "95830"), "h100-nvl", id="H100 NVL"),
        pytest.param(labels("NVIDIA-B200", "183359"), "b200", id="B200"),
        pytest.param(
            labels("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "97887"),
            "rtx-pro-6000",
            id="RTX PRO 6000",
        ),
        pytest.param(
            {
                "eks.amazonaws.com/instance-gpu-name": "a10g",
                "eks.amazonaws.com/instance-gpu-memory": "22888",
                "eks.amazonaws.com/instance-gpu-count": "2",
            },
            "a10g",
            id="EKS Auto Mode",
        ),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}, "a100-40gb", id="GKE"
        ),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"},
            "h100-80gb",
            id="GKE H100",
        ),
        pytest.param({"gpu.nvidia.com/model": "H200"}, "h200-141gb", id="CoreWeave"),
        pytest.param({"karpenter.k8s.aws/instance-gpu-name": "l4"}, "l4", id="Karpenter"),
        pytest.param(
            {
                "karpenter.k8s.aws/instance-gpu-name": "a100",
                "karpenter.k8s.aws/instance-gpu-memory": "81920",
            },
            "a100-80gb",
            id="Karpenter by memory",
        ),
        pytest.param(
            {
                "karpenter.k8s.aws/instance-gpu-name": "l4",
                "karpenter.k8s.aws/instance-gpu-memory": "22888",
            },
            "l4",
            id="Karpenter's L4",
        ),
    ],
)
def test_published_labels_give_their_class(
    make: Make, found: dict[str, str], gpu_class: str
) -> None:
    result = one(make.node(labels=found), make.shipped())
    assert (result.gpu_class, result.reason) == (gpu_class, "")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(labels("NVIDIA-GB200", "189471"), "no GPUProfile names", id="GB200"),
        pytest.param(labels("Tesla-P4", "7611"), "no GPUProfile names", id="P4"),
        pytest.param(
            labels("NVIDIA-GeForce-RTX-4090", "49140"),
            "with 49140 MiB is outside the memory of rtx-4090",
            id="modified 48 GB board",
        ),
        pytest.param(
            labels("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "9728"), "no GPUProfile", id="MIG"
        ),
        pytest.param(
            labels("NVIDIA-A100-SXM4-80GB-MIG-INVALID", "0"),
            "configured incompletely",
            id="MIG invalid",
        ),
        pytest.param(labels("NVIDIA-L4", "0"), "memory label of 0", id="no memory"),
        pytest.param(
            labels("NVIDIA-L4-SHARED", "23034", replicas="4"), "shared by 4", id="time-sliced"
        ),
        pytest.param(
            labels("NVIDIA-L4-SHARED", "23034"), "shared by an unknown number", id="suffix alone"
        ),
        pytest.param(
            labels("NVIDIA-L4", "23034", sharing_strategy="mps"), "an unknown number", id="strategy"
        ),
        pytest.param(
            labels("NVIDIA-A100-SXM4-40GB", "81920"),
            "with 81920 MiB is outside the memory of a100-40gb",
            id="contradiction",
        ),
        pytest.param(
            {"karpenter.k8s.aws/instance-gpu-name": "a100"},
            "belongs to several GPUProfiles: a100-40gb, a100-80gb",
            id="cloud without memory",
        ),
        pytest.param({"kubernetes.azure.com/accelerator": "nvidia"}, "no label names", id="Azure"),
        pytest.param({}, "no label names", id="no labels"),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-future"},
            "no GPUProfile names the product nvidia-future",
            id="new cloud",
        ),
    ],
)
def test_what_has_no_class_says_why(make: Make, found: dict[str, str], said: str) -> None:
    result = one(make.node(labels=found), make.shipped())
    assert result.gpu_class is None
    assert said in result.reason


def test_a_profile_that_names_mig_gets_its_slices(make: Make) -> None:
    match = {"products": ["*-MIG-1g.10gb"], "memoryMiB": {"min": 9000, "max": 11000}}
    node = make.node(labels=labels("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "9728"))
    result = one(node, (*make.shipped(), make.profile("slice", match=match)))
    assert result.gpu_class == "slice"


def test_a_product_of_two_profiles_is_not_guessed(make: Make) -> None:
    profiles = (make.profile("a"), make.profile("b"))
    result = one(make.node(), profiles)
    assert result.gpu_class is None
    assert "several GPUProfiles: a, b" in result.reason
    assert result.candidates == ("a", "b")


def test_a_shared_gpu_counts_its_part_of_the_memory_where_it_is_allowed(make: Make) -> None:
    node = make.node(labels=labels("NVIDIA-GeForce-RTX-4090-SHARED", "24564", replicas="4"))
    result = one(node, (make.profile(allowShared=True),))
    assert (result.gpu_class, result.memory_mib) == ("rtx-4090", 6141)


SHARED_4090 = "NVIDIA-GeForce-RTX-4090-SHARED"
SLICE = "nvidia.com/mig-3g.40gb"
SLICES = {"products": ["*-MIG-3g.40gb"], "memoryMiB": {"min": 38000, "max": 41000}}


def test_by_how_many_a_gpu_is_shared_is_worked_out_from_what_the_node_offers(make: Make) -> None:
    found = labels(SHARED_4090, "24564", count="2")
    shared = make.profile(allowShared=True)
    node = make.node(labels=found, gpus=6, capacity=(("nvidia.com/gpu", 6),))
    assert one(node, (shared,)).memory_mib == 8188
    for capacity in (2, 5):  # not shared at all, or not evenly
        odd = make.node(labels=found, gpus=2, capacity=(("nvidia.com/gpu", capacity),))
        assert "no label reports by how many pods" in one(odd, (shared,)).reason


def test_shared_gpus_under_their_own_resource_are_asked_for_by_it(make: Make) -> None:
    found = labels("NVIDIA-GeForce-RTX-4090", "24564", replicas="3")
    node = make.node(labels=found, gpus=0, others=(("nvidia.com/gpu.shared", 6),))
    uses = [PodUse("n1", 0, "", (("nvidia.com/gpu.shared", 2),))]
    taken = inventory.count_free([node], uses, (make.profile(allowShared=True),), Placement())
    stock = taken.stocks["rtx-4090"]
    assert (stock.resource, stock.total, stock.free) == ("nvidia.com/gpu.shared", 6, 4)
    assert stock.memory_mib == 8188
    refused = inventory.count_free([node], uses, (make.profile(),), Placement())
    assert refused.left_out == (
        (
            "n1",
            "nvidia.com/gpu.shared: "
            "NVIDIA-GeForce-RTX-4090 is shared by 3, which rtx-4090 does not allow",
        ),
    )


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(
            {
                f"{SLICE}.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb",
                f"{SLICE}.memory": "40192",
                f"{SLICE}.replicas": "1",
            },
            id="labelled",
        ),
        pytest.param({f"{SLICE}.memory": "40192"}, id="product of the whole card"),
    ],
)
def test_mixed_mig_offers_slices_beside_whole_gpus(make: Make, found: dict[str, str]) -> None:
    whole = labels("NVIDIA-A100-SXM4-80GB", "81920", replicas="0")
    node = make.node(labels=whole | found, gpus=1, others=((SLICE, 2),))
    cards = tuple(profile for profile in make.shipped() if "g." not in profile.name)
    profiles = (*cards, make.profile("slice", match=SLICES))
    uses = [PodUse("n1", 1, ""), PodUse("", 0, "slice", ((SLICE, 1),))]
    stocks = inventory.count_free([node], uses, profiles, Placement()).stocks
    assert (stocks["a100-80gb"].total, stocks["a100-80gb"].free) == (1, 0)
    assert (stocks["slice"].total, stocks["slice"].free) == (2, 1)
    assert (stocks["slice"].resource, stocks["slice"].memory_mib) == (SLICE, 40192)
    without = inventory.count_free([node], uses, cards, Placement())
    assert [reason for _, reason in without.left_out] == [
        f"{SLICE}: no GPUProfile names the product NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"
    ]


def test_slices_that_nothing_describes_have_no_class(make: Make) -> None:
    (found,) = node_classes.classify(make.node(labels={}, gpus=0, others=((SLICE, 2),)), ())
    assert "no label names" in found.reason


def test_a_class_is_taken_by_the_resource_that_most_of_its_gpus_have(make: Make) -> None:
    single = labels("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "40192")
    mixed = {f"{SLICE}.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", f"{SLICE}.memory": "40192"}
    nodes = [
        make.node("n1", labels=single, gpus=2),
        make.node("n2", labels=mixed, gpus=0, others=((SLICE, 4),)),
    ]
    taken = inventory.count_free(nodes, [], (make.profile("slice", match=SLICES),), Placement())
    assert (taken.stocks["slice"].resource, taken.stocks["slice"].total) == (SLICE, 4)
    assert taken.left_out == (("n1", f"most GPUs of slice are offered as {SLICE}"),)


def test_a_gpu_whose_memory_nothing_tells_counts_as_the_smallest_of_its_class(make: Make) -> None:
    result = one(make.node(labels=labels("NVIDIA-GeForce-RTX-4090")), (make.profile(),))
    assert result.memory_mib == 22500
    assert ("nvidia.com/gpu.memory", "") in result.selector  # nor may pods land on other boards


def test_what_a_cloud_rents_out_is_not_taken_for_measured(make: Make) -> None:
    found = {
        "karpenter.k8s.aws/instance-gpu-name": "h100",
        "karpenter.k8s.aws/instance-gpu-memory": "81920",  # the driver says 81559
    }
    result = one(make.node(labels=found), make.shipped())
    assert (result.gpu_class, result.memory_mib) == ("h100-80gb", 80000)
    assert result.selector == (*found.items(), ("nvidia.com/gpu.product", ""))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        pytest.param({"capacity": (("nvidia.com/gpu", 1),)}, "the node has 1", id="one is missing"),
        pytest.param({"capacity": (("nvidia.com/gpu", 2),)}, "", id="as labelled"),
        pytest.param(
            {"capacity": (("nvidia.com/gpu", 1),), "nvidia.com/mig.strategy": "mixed"},
            "",
            id="others are sliced",
        ),
        pytest.param({}, "", id="no capacity"),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-l4"},
            "feature discovery says NVIDIA-GeForce-RTX-4090, the cloud NVIDIA-L4",
            id="two opinions",
        ),
        pytest.param({"gpu.nvidia.com/model": "RTX"}, "", id="a cloud that says nothing"),
    ],
)
def test_labels_that_do_not_add_up_are_used_with_a_warning(
    make: Make, changes: dict[str, Any], warning: str
) -> None:
    found = labels("NVIDIA-GeForce-RTX-4090", "24564", count="2")
    more = {key: value for key, value in changes.items() if key != "capacity"}
    node = make.node(labels=found | more, capacity=changes.get("capacity", ()))
    taken = inventory.count_free([node], [], (make.profile(),), Placement())
    (row,) = taken.nodes
    assert (row.gpu_class, row.total, row.free) == ("rtx-4090", 2, 2)
    assert warning in row.reason
    assert bool(row.reason) == bool(warning)


KARPENTER = {
    "karpenter.k8s.aws/instance-gpu-name": "l4",
    "karpenter.k8s.aws/instance-gpu-count": "2",
}
EKS = {
    "eks.amazonaws.com/instance-gpu-name": "l4",
    "eks.amazonaws.com/instance-gpu-count": "2",
}
GKE = {
    "cloud.google.com/gke-accelerator": "nvidia-l4",
    "cloud.google.com/gke-max-shared-clients-per-gpu": "10",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"labels": labels("NVIDIA-L4", "23034", count="2")},
            "labels count 2 GPUs, the node offers 20 nvidia.com/gpu: they are split (HAMi or",
            id="allocatable",
        ),
        pytest.param(
            {"labels": labels("NVIDIA-L4", "23034", count="2"), "gpus": 1},
            "the node offers 20 nvidia.com/gpu",
            id="capacity alone",
        ),
        pytest.param(
            {"labels": labels("NVIDIA-L4", "23034", count="2"), "is_hami": True},
            "they are split (HAMi) or of several kinds",
            id="HAMi",
        ),
        pytest.param(
            {"labels": labels("NVIDIA-L4", "23034"), "is_hami": True},
            "HAMi offers the GPUs, and no label counts them",
            id="HAMi without a count",
        ),
        pytest.param(
            {"labels": labels("NVIDIA-L4", "23034", count="19")}, "several kinds", id="two kinds"
        ),
        pytest.param(
            {"labels": labels("NVIDIA-L4-SHARED", "23034", count="2", replicas="4")},
            "count 2 GPUs shared by 4, the node offers 20",
            id="shared and split",
        ),
        pytest.param({"labels": KARPENTER}, "labels count 2 GPUs", id="Karpenter"),
        pytest.param({"labels": EKS}, "labels count 2 GPUs", id="EKS"),
        pytest.param({"labels": GKE}, "is shared by 10, which l4 does not allow", id="GKE"),
        pytest.param(
            {"labels": {**GKE, "cloud.google.com/gke-gpu-partition-size": "1g.5gb"}},
            "no GPUProfile names the product NVIDIA-L4-MIG-1g.5gb",
            id="GKE with MIG",
        ),
    ],
)
def test_gpus_that_the_labels_do_not_explain_are_refused(
    make: Make, changes: dict[str, Any], said: str
) -> None:
    """Issue 13, A5: 20 parts of two split GPUs were planned as 20 free GPUs."""
    node = make.node(**{"gpus": 20, "capacity": (("nvidia.com/gpu", 20),), **changes})
    taken = inventory.count_free([node], [], make.shipped(), Placement())
    ((name, reason),) = taken.left_out
    assert (name, taken.stocks["l4"].total, taken.stocks["l4"].free) == ("n1", 0, 0)
    assert said in reason


def test_split_gpus_are_refused_by_profiles_that_allow_shared_ones_too(make: Make) -> None:
    """They may as well be of several kinds, so a part of the memory is no safe figure either."""
    node = make.node(labels=labels("NVIDIA-GeForce-RTX-4090", "24564", count="2"), gpus=20)
    assert one(node, (make.profile(allowShared=True),)).gpu_class is None


def test_gpus_of_hami_that_are_not_split_are_whole(make: Make) -> None:
    found = labels("NVIDIA-GeForce-RTX-4090", "24564", count="2")
    node = make.node(labels=found, capacity=(("nvidia.com/gpu", 2),), is_hami=True)
    assert one(node, (make.profile(),)).gpu_class == "rtx-4090"


@pytest.mark.parametrize(
    ("resource", "vendor"), [("amd.com/gpu", "AMD"), ("gpu.intel.com/i915", "Intel")]
)
def test_gpus_of_other_vendors_are_named_as_unsupported(
    make: Make, resource: str, vendor: str
) -> None:
    body = make.node_body(gpus=0)
    body["metadata"]["labels"] = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}
    body["status"]["allocatable"] = {resource: "8"}
    taken = inventory.count_free([parse_node(body)], [], make.shipped(), Placement())
    ((_, reason),) = taken.left_out
    assert reason == f"{resource}: {vendor} GPUs are not supported, only NVIDIA GPUs are"
    assert not any(stock.total for stock in taken.stocks.values())


def test_hami_is_known_by_its_annotation(make: Make) -> None:
    body = make.node_body()
    assert not parse_node(body).is_hami
    body["metadata"]["annotations"] = {"hami.io/node-nvidia-register": "[]"}
    assert parse_node(body).is_hami


def test_a_cloud_that_agrees_is_no_contradiction(make: Make) -> None:
    found = labels("NVIDIA-L4", "23034") | {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert one(make.node(labels=found), make.shipped()).warning == ""


@pytest.mark.parametrize(
    ("memory", "gpu_class"), [("10000000", "large"), ("10000001", None)], ids=["MiB", "bytes"]
)
def test_a_memory_label_counts_as_bytes_only_above_any_size_in_mebibytes(
    make: Make, memory: str, gpu_class: str | None
) -> None:
    match = {"products": ["*"], "memoryMiB": {"min": 9_999_999, "max": 10_000_000}}
    profile = make.profile("large", match=match)
    node = make.node(labels=labels("NVIDIA-X", memory))
    assert one(node, (profile,)).gpu_class == gpu_class
