"""The labels by which clouds name the GPUs of a node, for nodes without GPU feature discovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_A100_40: Final = "NVIDIA-A100-SXM4-40GB"
_A100_80: Final = "NVIDIA-A100-SXM4-80GB"
_H100: Final = "NVIDIA-H100-80GB-HBM3"


@dataclass(frozen=True, slots=True)
class Cloud:
    """How a cloud names its GPUs, for nodes without feature discovery."""

    products: Mapping[str, tuple[str, ...]]  # several products if the name is ambiguous
    memory_label: str = ""
    count_label: str = ""
    replicas_label: str = ""  # pods that share one GPU
    slice_label: str = ""  # MIG profile of all GPUs


_EC2: Final[Mapping[str, tuple[str, ...]]] = {
    "t4": ("Tesla-T4",),
    "v100": ("Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB"),
    "a10g": ("NVIDIA-A10G",),
    "l4": ("NVIDIA-L4",),
    "l40s": ("NVIDIA-L40S",),
    "a100": (_A100_40, _A100_80),
    "h100": (_H100,),
    "h200": ("NVIDIA-H200",),
    "b200": ("NVIDIA-B200",),
}


def _ec2(prefix: str) -> Cloud:
    """Return the labels of Karpenter or of EKS Auto Mode, which differ only in their prefix."""
    gpu = f"{prefix}/instance-gpu"
    return Cloud(_EC2, memory_label=f"{gpu}-memory", count_label=f"{gpu}-count")


CLOUDS: Final[Mapping[str, Cloud]] = {
    "cloud.google.com/gke-accelerator": Cloud(
        {
            "nvidia-l4": ("NVIDIA-L4",),
            "nvidia-tesla-t4": ("Tesla-T4",),
            "nvidia-tesla-v100": ("Tesla-V100-SXM2-16GB",),
            "nvidia-tesla-a100": (_A100_40,),
            "nvidia-a100-80gb": (_A100_80,),
            "nvidia-h100-80gb": (_H100,),
            "nvidia-h100-mega-80gb": (_H100,),
            "nvidia-h200-141gb": ("NVIDIA-H200",),
            "nvidia-b200": ("NVIDIA-B200",),
            "nvidia-rtx-pro-6000": ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",),
        },
        replicas_label="cloud.google.com/gke-max-shared-clients-per-gpu",
        slice_label="cloud.google.com/gke-gpu-partition-size",
    ),
    "gpu.nvidia.com/model": Cloud(
        {
            "A100": (_A100_40, _A100_80),
            "H100": (_H100,),
            "H200": ("NVIDIA-H200",),
            "L40S": ("NVIDIA-L40S",),
            "L4": ("NVIDIA-L4",),
        },
        count_label="gpu.nvidia.com/count",
    ),
    "doks.digitalocean.com/gpu-model": Cloud(
        {"h100": (_H100,), "h200": ("NVIDIA-H200",), "l40s": ("NVIDIA-L40S",)}
    ),
    "karpenter.k8s.aws/instance-gpu-name": _ec2("karpenter.k8s.aws"),
    "eks.amazonaws.com/instance-gpu-name": _ec2("eks.amazonaws.com"),
}
