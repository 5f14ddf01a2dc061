"""The cluster of the demo and of the tests: two nodes with the images of this repository."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import errors, paths, waiting
from localcluster.kubelet import cluster as clusters
from localcluster.kubelet.cluster import NodeKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.kubelet.cluster import Cluster
    from localcluster.kubelet.node import Node

ARCHIVES: Final = paths.REPOSITORY / "build" / "images"
IMAGES: Final = ("operator", "gateway", "runtime")
RESTRICTED: Final = Path(__file__).with_name("restricted.yaml")
POLICY_S: Final = 30.0

_THREADS: Final = (("OMP_NUM_THREADS", "2"), ("OMP_WAIT_POLICY", "PASSIVE"))
NODES: Final = (
    NodeKind("rtx-4090-a", gpus=2, environment=(("AVATAR_DEVICE", "cpu"), *_THREADS)),
    NodeKind(
        "h100-80gb-a", gpus=2, product="NVIDIA-H100-80GB-HBM3", memory_mib=81559,
        environment=(("AVATAR_DEVICE", "simulated:h100-80gb"), *_THREADS),
    ),
)  # fmt: skip
"""One node whose runtimes compute on the CPU, and one whose GPUs are simulated."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The cluster, with the questions that the tests ask."""

    cluster: Cluster

    @property
    def control(self) -> ControlPlane:
        return self.cluster.control

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.cluster.nodes.values())

    async def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects that `kubectl get` lists, sorted by name."""
        listed = json.loads(await self.control.kubectl("get", kind, *arguments, "-o", "json"))
        return sorted(listed["items"], key=lambda each: str(each["metadata"]["name"]))

    async def cluster_ip(self, namespace: str, service: str) -> str:
        """Return the address of a Service."""
        path = "jsonpath={.spec.clusterIP}"
        return await self.control.kubectl("get", "service", service, "-n", namespace, "-o", path)


def archives() -> dict[str, Path]:
    """Return the archives that `make images` writes, by image.

    Raises:
        LocalClusterError: one is missing.
    """
    found = {name: ARCHIVES / f"{name}.tar" for name in IMAGES}
    if missing := [str(path) for path in found.values() if not path.exists()]:
        raise errors.LocalClusterError(f"make images builds {', '.join(missing)}")
    return found


async def load(node: Node) -> None:
    """Import the images of this repository: a node without them is cold, one with them is warm."""
    for archive in archives().values():
        await node.import_image(archive)


@contextlib.asynccontextmanager
async def running(state_dir: Path) -> AsyncIterator[Fleet]:
    """Run the cluster with warm nodes; every namespace accepts restricted pods only.

    Raises:
        LocalClusterError: a part of it does not start.
    """
    archives()
    async with clusters.running(state_dir, NODES) as cluster:
        fleet = Fleet(cluster)
        await asyncio.gather(*(load(node) for node in fleet.nodes))
        await restrict(cluster.control)
        yield fleet


async def restrict(control: ControlPlane) -> None:
    """Let every new namespace, and the namespace default, accept restricted pods only."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    await control.kubectl("apply", "-f", RESTRICTED)
    await control.kubectl("label", "namespace", "default", label)

    async def labels() -> str:
        # Admission policies take effect a moment after they are created.
        with contextlib.suppress(errors.CommandFailed):
            return await control.kubectl(
                "create", "namespace", "probe", "--dry-run=server",
                "-o", "jsonpath={.metadata.labels}",
            )  # fmt: skip
        return ""

    await waiting.until(labels, lambda text: "restricted" in text, "the policy is active", POLICY_S)
