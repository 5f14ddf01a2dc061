"""Shares of GPUs that are short, on hollow nodes of two classes: twelve GPUs in all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

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

BIG: Final = "acme"
SMALL: Final = "globex"
CLASSES: Final = (
    GPUClass("rtx-4090", "NVIDIA-GeForce-RTX-4090", 24564, nodes=1, gpus_per_node=8),
    GPUClass("a100-80gb", "NVIDIA-A100-SXM4-80GB", 81920, nodes=1, gpus_per_node=4),
)


def _nodes(api: Api) -> MixedNodes:
    return MixedNodes(api, CLASSES, missing_image="")


def _names_holders(shared: SimulatedCluster, name: str) -> bool:
    message = shared.condition(SMALL, name, "GPUAvailable").get("message", "")
    return "other namespaces hold 12 of 12 GPUs" in message


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("fair") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (BIG, SMALL), _nodes) as opened,
    ):
        yield opened


async def test_small_services_get_their_minimum_from_empty_pods_of_a_big_one(
    shared: SimulatedCluster,
) -> None:
    await shared.apply(BIG, "big", replicas=20)
    await shared.until(
        lambda: shared.status(BIG, "big").get("readyReplicas") == 12, "one service has all GPUs"
    )
    hollow_pods = shared.hollow_pods(BIG, "big")
    for hollow_pod in hollow_pods:
        await shared.hollow_nodes.set_sessions(hollow_pod, 2)
    names = [f"small-{number}" for number in range(5)]
    for name in names:
        await shared.apply(SMALL, name, replicas=1)
    for name in names:  # every pod has sessions, so that none is given back
        await shared.until(
            partial(_names_holders, shared, name), "the status says who holds the GPUs"
        )
        assert "big" not in shared.condition(SMALL, name, "GPUAvailable")["message"]
    assert not any(hollow_pod.draining for hollow_pod in hollow_pods)
    busy, ended = hollow_pods[:3], hollow_pods[3:]
    for hollow_pod in ended:
        await shared.hollow_nodes.set_sessions(hollow_pod, 0)
    for name in names:
        await shared.ready(SMALL, name, pods=1)
    await shared.until(
        lambda: shared.status(BIG, "big").get("readyReplicas") == 7, "the big one keeps the rest"
    )
    assert not any(hollow_pod.gone or hollow_pod.draining for hollow_pod in busy)
    assert shared.hollow_nodes.deleted_with_sessions == []
    await shared.until(
        lambda: (
            "acme/big holds 7, other namespaces hold 5 of 12 GPUs"
            in shared.condition(BIG, "big", "GPUAvailable")["message"]
        ),
        "the big one says who holds the GPUs",
    )
    for name in names:
        await shared.delete(SMALL, name)
    await shared.until(
        lambda: shared.status(BIG, "big").get("readyReplicas") == 12, "GPUs come back"
    )
    for hollow_pod in busy:
        await shared.hollow_nodes.set_sessions(hollow_pod, 0)
    await shared.delete(BIG, "big")


async def test_weights_divide_eight_gpus_six_to_two(shared: SimulatedCluster) -> None:
    only = {"gpuClasses": ["rtx-4090"]}
    await shared.apply(BIG, "light", replicas=8, weight=1, placement=only)
    await shared.ready(BIG, "light", pods=8)
    await shared.apply(SMALL, "heavy", replicas=8, weight=3, placement=only)

    def ready() -> list[int]:
        services = ((SMALL, "heavy"), (BIG, "light"))
        return [shared.status(*service).get("readyReplicas", 0) for service in services]

    await shared.until(lambda: ready() == [6, 2], "the weights 3 and 1 share eight GPUs")
    await shared.delete(SMALL, "heavy")
    await shared.delete(BIG, "light")


async def test_a_higher_priority_gets_its_minimum_first(shared: SimulatedCluster) -> None:
    body = {"metadata": {"name": "talk-first"}, "value": 1000}
    await shared.api.post("/apis/scheduling.k8s.io/v1/priorityclasses", body)
    for number in range(12):
        await shared.apply(BIG, f"low-{number}", replicas=1)
        await shared.ready(BIG, f"low-{number}", pods=1)
    busy = [pod for number in range(11) for pod in shared.hollow_pods(BIG, f"low-{number}")]
    for hollow_pod in busy:
        await shared.hollow_nodes.set_sessions(hollow_pod, 1)
    template = {"priorityClassName": "talk-first"}
    await shared.apply(SMALL, "high", replicas=1, template=template)
    await shared.ready(SMALL, "high", pods=1)
    assert shared.pods_of(BIG, "low-11") == []
    assert not any(hollow_pod.gone or hollow_pod.draining for hollow_pod in busy)
