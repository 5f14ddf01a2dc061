"""What NVIDIA's DRA driver and its chart create, for nodes whose driver is simulated."""

from __future__ import annotations

from typing import Any, Final

DRIVER: Final = "gpu.nvidia.com"


def device_class(kind: str = "gpu") -> dict[str, Any]:
    """Return the DeviceClass of whole GPUs or of MIG slices (`mig`).

    That of whole GPUs has the bridge for pods that request nvidia.com/gpu.
    """
    of_kind = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{kind}'"
    bridge = {"extendedResourceName": "nvidia.com/gpu"} if kind == "gpu" else {}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": f"{kind}.nvidia.com"},
        "spec": {**bridge, "selectors": [{"cel": {"expression": of_kind}}]},
    }


def gpu(
    minor: int,
    product: str = "NVIDIA L40S",
    memory: str = "46068Mi",
    *,
    kind: str = "gpu",
    profile: str = "",
) -> dict[str, Any]:
    """Return a GPU, or a MIG slice of it."""
    texts = {"type": kind, "productName": product, "brand": "Nvidia", "uuid": f"GPU-{minor}"}
    name = f"gpu-{minor}"
    if profile:
        texts |= {"profile": profile, "parentUUID": f"GPU-{minor}"}
        name += f"-mig-{profile.replace('.', '')}-9-0"
    versions = {"cudaComputeCapability": "8.9.0", "driverVersion": "580.82.7"}
    return {
        "name": name,
        "attributes": {
            **{key: {"string": value} for key, value in texts.items()},
            **{key: {"version": value} for key, value in versions.items()},
        },
        "capacity": {"memory": {"value": memory}},
    }


def resource_slice(node: str, *devices: dict[str, Any]) -> dict[str, Any]:
    """Return the only slice of a node."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{DRIVER}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [*devices],
        },
    }
