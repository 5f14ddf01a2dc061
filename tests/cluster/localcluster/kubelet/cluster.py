"""Runs a control plane with real nodes: `async with kubelet.cluster.running(...)`."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcluster import paths
from localcluster.controlplane import build, progress, supervision, supervisor
from localcluster.controlplane import cluster as controlplane
from localcluster.kubelet import dns, network
from localcluster.kubelet import node as nodes
from localcluster.kubelet.documents import NodePlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.kubelet.node import Node
    from localcluster.kubelet.topology import Topology

MODULE: Final = paths.MODULE / "localcluster" / "kubelet"
"""The Go module of kubelet and kube-proxy."""
GPU: Final = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class NodeKind:
    """A node to start; with GPUs it has the labels of GPU feature discovery.

    It has no taint, so that a few nodes run all pods.
    """

    name: str
    gpus: int = 0
    product: str = "NVIDIA-GeForce-RTX-4090"
    memory_mib: int = 24564
    environment: tuple[tuple[str, str], ...] = ()

    def plan(self, topology: Topology, index: int) -> NodePlan:
        """Return the plan of this node."""
        labels = {"topology.kubernetes.io/zone": f"local-{index}"}
        if self.gpus:
            labels |= {
                "nvidia.com/gpu.product": self.product,
                "nvidia.com/gpu.memory": str(self.memory_mib),
                "nvidia.com/gpu.count": str(self.gpus),
                "nvidia.com/mig.capable": "false",
            }
        addresses = topology.node(index)
        return NodePlan(self.name, addresses, labels, dict(self.environment))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A control plane and its nodes by name."""

    control: ControlPlane
    topology: Topology
    nodes: Mapping[str, Node]


async def built() -> dict[str, Path]:
    """Build kubelet and kube-proxy into the user's cache, once."""
    return await build.ensure(progress.Screen(sys.stderr), os.environ, MODULE)


@contextlib.asynccontextmanager
async def running(state_dir: Path, kinds: Sequence[NodeKind]) -> AsyncIterator[Cluster]:
    """Run a cluster; its nodes have no images but that of the sandbox.

    Everything ends with the block, and with this process in any case: processes, mounts and
    interfaces belong to namespaces that end with the first process of each node.

    Raises:
        LocalClusterError: a part of the cluster does not start.
    """
    binaries = await built()
    async with contextlib.AsyncExitStack() as stack:
        topology = await stack.enter_async_context(network.created())
        opened = controlplane.running(state_dir, address=topology.host)
        control = await stack.enter_async_context(opened)
        await stack.enter_async_context(_names(control, topology))
        plans = [kind.plan(topology, index) for index, kind in enumerate(kinds)]
        started: dict[str, Node] = {}
        for kind, plan in zip(kinds, plans, strict=True):
            others = [each for each in plans if each is not plan]
            stack.push_async_callback(nodes.removed, control, plan)
            node = await nodes.started(control, plan, binaries, others)
            if kind.gpus:
                await node.offer(GPU, kind.gpus)
            started[kind.name] = node
        yield Cluster(control, topology, started)


@contextlib.asynccontextmanager
async def _names(control: ControlPlane, topology: Topology) -> AsyncIterator[None]:
    folder = control.layout.root / "names"
    folder.mkdir(exist_ok=True)
    argv = dns.arguments(topology.host, folder)
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    log = str(control.layout.log("dnsmasq"))
    await supervision.start(control.layout, supervisor.Spec("dnsmasq", argv, env, log, 0))
    async with dns.names(control, folder):
        yield
