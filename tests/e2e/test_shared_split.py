"""Nodes whose GPUs are split, of several kinds or of another vendor, on a real control plane."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster
from localcluster.fakes.mixed_nodes import ROOM, MixedNodes
from localcluster.faults.shared_campaign import GPUClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.controlplane.kubeapi import Api
    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT: Final = "acme"
CLASSES: Final = (GPUClass("l4", "NVIDIA-L4", 23034, nodes=1, gpus_per_node=20),)
NODE: Final = "hollow-l4-0"
AMD_NODE: Final = "hollow-amd"
NAMED: Final = {"placement": {"gpuClasses": ["l4"]}}


class SplitNodes(MixedNodes):
    """A node that offers 20 GPUs where its labels count 2, and a node of AMD."""

    def __init__(self, api: Api) -> None:
        super().__init__(api, CLASSES, missing_image="")

    async def _register(self, node: str) -> None:
        await super()._register(node)
        await self.label({"nvidia.com/gpu.count": "2"})
        await self._api.post("/api/v1/nodes", {"metadata": {"name": AMD_NODE}})

    def _rooms(self) -> dict[str, dict[str, str]]:
        return {**super()._rooms(), AMD_NODE: {**ROOM, "amd.com/gpu": "8"}}

    async def label(self, labels: dict[str, str]) -> None:
        await self._api.merge(f"/api/v1/nodes/{NODE}", {"metadata": {"labels": labels}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("shared") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (TENANT,), SplitNodes) as opened,
    ):
        yield opened


def _available(shared: SimulatedCluster, name: str) -> Any:
    condition = shared.condition(TENANT, name, "GPUAvailable")
    return condition.get("status"), condition.get("message", "")


async def _label(shared: SimulatedCluster, count: str) -> None:
    assert isinstance(shared.hollow_nodes, SplitNodes)
    await shared.hollow_nodes.label({"nvidia.com/gpu.count": count})


@pytest.mark.parametrize("count", ["2", "19"], ids=["split", "two kinds"])
async def test_gpus_that_the_labels_do_not_explain_get_no_pod(
    shared: SimulatedCluster, count: str
) -> None:
    """20 parts of two split GPUs were planned as 20 free GPUs."""
    await _label(shared, count)
    name = f"front-{count}"
    await shared.apply(TENANT, name, replicas=3, **NAMED)
    said = f"labels count {count} GPUs, the node offers 20 nvidia.com/gpu: they are split"
    await shared.until(lambda: said in _available(shared, name)[1], f"{name} says it")
    status, message = _available(shared, name)
    assert status == "False"
    assert "several kinds" in message
    assert NODE in message
    assert shared.pods_of(TENANT, name) == []
    await _label(shared, "20")  # the labels now agree with what the node offers
    await shared.ready(TENANT, name, pods=3)
    await shared.delete(TENANT, name)


async def test_nodes_of_another_vendor_are_named(shared: SimulatedCluster) -> None:
    await shared.apply(TENANT, "any", replicas=21)
    await shared.until(
        lambda: "AMD GPUs are not supported" in _available(shared, "any")[1],
        "the status names the node with AMD GPUs",
    )
    assert AMD_NODE in _available(shared, "any")[1]
    nodes = {pod["spec"].get("nodeName") for pod in shared.pods_of(TENANT, "any")}
    assert nodes <= {NODE, None}  # some may have no node yet
    await shared.delete(TENANT, "any")


async def test_plan_says_the_same_of_the_same_nodes(
    shared: SimulatedCluster, tmp_path: Path
) -> None:
    await _label(shared, "2")
    nodes, service = tmp_path / "nodes.yaml", tmp_path / "service.yaml"
    nodes.write_text(await shared.cluster.kubectl("get", "nodes", "-o", "yaml"))
    service.write_text(
        "apiVersion: avatar.musetalk.io/v1alpha1\nkind: AvatarService\n"
        "metadata: {name: front, namespace: acme}\n"
        "spec: {replicas: 3, placement: {gpuClasses: [l4]}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_operator", "plan"),
        *("--service", str(service), "--nodes", str(nodes)),
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    assert "labels count 2 GPUs, the node offers 20 nvidia.com/gpu" in output
    assert "amd.com/gpu: AMD GPUs are not supported" in output
    assert "create" not in output.lower()
