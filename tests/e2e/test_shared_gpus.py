"""Several services that want the same GPUs at the same time, on hollow nodes of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster
from localcluster.fakes.mixed_nodes import MixedNodes
from localcluster.faults.shared_campaign import GPUClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.kubeapi import Api
    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT = "acme"
CLASSES = (
    GPUClass("rtx-4090", "NVIDIA-GeForce-RTX-4090", 24564, nodes=1, gpus_per_node=2),
    GPUClass("a100-80gb", "NVIDIA-A100-SXM4-80GB", 81920, nodes=1, gpus_per_node=2),
)


def _nodes(api: Api) -> MixedNodes:
    return MixedNodes(api, CLASSES, missing_image="")


def _reason(shared: SimulatedCluster, name: str) -> str:
    return str(shared.condition(TENANT, name, "Ready").get("reason"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("shared") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (TENANT,), _nodes) as opened,
    ):
        yield opened


@pytest.mark.parametrize("attempt", range(3))
async def test_services_applied_together_use_every_free_gpu(
    shared: SimulatedCluster, attempt: int
) -> None:
    names = [f"front-{attempt}-{letter}" for letter in "abcd"]
    for name in names:
        await shared.apply(TENANT, name, replicas=1)
    for name in names:
        await shared.ready(TENANT, name, pods=1)
    classes = sorted(
        pod["metadata"]["labels"]["avatar.musetalk.io/gpu-class"]
        for name in names
        for pod in shared.pods_of(TENANT, name)
    )
    assert classes == ["a100-80gb", "a100-80gb", "rtx-4090", "rtx-4090"]
    for name in names:
        await shared.delete(TENANT, name)


async def test_services_that_wait_share_the_gpus_that_become_free(
    shared: SimulatedCluster,
) -> None:
    await shared.apply(TENANT, "holder", replicas=4)
    await shared.ready(TENANT, "holder", pods=4)
    names = [f"waiter-{letter}" for letter in "abcd"]
    for name in names:
        await shared.apply(TENANT, name, replicas=1)
    await shared.until(
        lambda: {_reason(shared, name) for name in names} == {"NoFreeGPU"},
        "every service that waits says that no GPU is free",
    )
    await shared.delete(TENANT, "holder")
    for name in names:
        await shared.ready(TENANT, name, pods=1)
    for name in names:
        await shared.delete(TENANT, name)
