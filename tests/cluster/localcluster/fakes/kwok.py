"""Simulated nodes and pods for scale tests: kwok acts for thousands of kubelets, no pod runs.

Its pods become Running and Ready and have loopback addresses on which no process listens. For the
operator, they are runtimes that are not reachable.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from localcluster import paths
from localcluster.controlplane import processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Api, Body

STAGES: Final = paths.MODULE / "kwok-stages.yaml"
LABEL: Final = "type=kwok"
GPUS: Final = 8  # per node, as in a full server
PODS_CIDR: Final = "127.64.0.0/10"
LEASE_S: Final = 120  # renewed each quarter of it; the control plane allows a node 50 s
AT_ONCE: Final = 16


@contextlib.asynccontextmanager
async def running(cluster: ControlPlane) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run kwok for the nodes with its label."""
    with cluster.layout.log("kwok").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            cluster.bin_dir / "kwok",
            f"--kubeconfig={cluster.kubeconfig}",
            f"--config={STAGES}",
            f"--manage-nodes-with-label-selector={LABEL}",
            f"--node-lease-duration-seconds={LEASE_S}",
            f"--cidr={PODS_CIDR}",
            "--v=WARN",
            env={"HOME": str(cluster.layout.home)},
            stdout=log,
            stderr=log,
            preexec_fn=processes.die_with_parent,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def add_nodes(api: Api, count: int) -> None:
    """Register nodes with eight RTX 4090 each, in three zones."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def add(number: int) -> None:
        async with slots:
            await api.post("/api/v1/nodes", node(number))

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(add(number))


def node(number: int) -> Body:
    """Return a node with the labels of GPU feature discovery."""
    name = f"kwok-{number:05}"
    key, value = LABEL.split("=")
    resources = {"nvidia.com/gpu": str(GPUS), "cpu": "64", "memory": "512Gi", "pods": "110"}
    return {
        "metadata": {
            "name": name,
            "labels": {
                key: value,
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": f"zone-{number % 3}",
                "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090",
                "nvidia.com/gpu.memory": "24564",
                "nvidia.com/gpu.count": str(GPUS),
            },
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }
