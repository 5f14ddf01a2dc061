"""Several services that want the same GPUs at the same time, on hollow nodes of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster
from localcluster.fakes.mixed_nodes import MixedNodes
from localcluster.faults.shared_campaign import CPU_OF_NO_NODE, MISSING_IMAGE, GPUClass

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
    return MixedNodes(api, CLASSES, missing_image=MISSING_IMAGE)


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


def _requests(cpu: str) -> dict[str, Any]:
    return {"template": {"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}}


def _ready_message(shared: SimulatedCluster, name: str) -> str:
    return str(shared.condition(TENANT, name, "Ready").get("message"))


CLAIM: Final = {"persistentVolumeClaim": {"claimName": "missing"}}
IMPOSSIBLE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "cpu": (_requests(CPU_OF_NO_NODE), "Insufficient cpu"),
    "claim": ({"model": {"source": CLAIM}}, 'persistentvolumeclaim "missing" not found'),
    "image": ({"template": {"image": MISSING_IMAGE}}, "ImagePullBackOff"),
}
"""What keeps the pods of a service from running, and the words of its status."""


@pytest.mark.parametrize("kind", IMPOSSIBLE)
async def test_a_service_runs_beside_one_that_never_will(
    shared: SimulatedCluster, kind: str
) -> None:
    spec, words = IMPOSSIBLE[kind]
    bad, good = f"bad-{kind}", f"good-{kind}"
    await shared.apply(TENANT, bad, replicas=10, **spec)
    await shared.until(lambda: words in _ready_message(shared, bad), f"{bad} says {words}")
    assert _reason(shared, bad) == "PodsFailing"
    await shared.apply(TENANT, good, replicas=4)
    await shared.ready(TENANT, good, pods=4)  # within 30 s
    assert len(shared.pods_of(TENANT, bad)) <= 1
    for name in (bad, good):
        await shared.delete(TENANT, name)


async def test_a_pod_that_does_not_fit_moves_to_the_next_class(shared: SimulatedCluster) -> None:
    placement = {"gpuClasses": ["rtx-4090", "a100-80gb"]}
    # Each node has 64 cores: of two pods, only one fits the node of the first class.
    await shared.apply(TENANT, "wide", replicas=2, placement=placement, **_requests("40"))
    await shared.ready(TENANT, "wide", pods=2)
    nodes = {pod["spec"]["nodeName"] for pod in shared.pods_of(TENANT, "wide")}
    assert nodes == {"hollow-rtx-4090-0", "hollow-a100-80gb-0"}
    assert _failures(shared, "wide") == ["rtx-4090"]
    await shared.delete(TENANT, "wide")


async def test_pods_that_may_wait_are_named_and_hold_no_gpu(shared: SimulatedCluster) -> None:
    placement = {"gpuClasses": ["rtx-4090"], "whenFull": "createPending"}
    await shared.apply(TENANT, "bad", replicas=10, placement=placement, **_requests(CPU_OF_NO_NODE))
    await shared.until(
        lambda: _reason(shared, "bad") == "WaitingForNode", "the service waits for a node"
    )
    (pod,) = shared.pods_of(TENANT, "bad")
    message = _ready_message(shared, "bad")
    waiting = f"waiting for a node: {pod['metadata']['name']} (rtx-4090): not scheduled: 0/"
    assert message.startswith(waiting)
    assert "Insufficient cpu" in message
    await shared.apply(TENANT, "good", replicas=4)
    await shared.ready(TENANT, "good", pods=4)
    assert [each["metadata"]["uid"] for each in shared.pods_of(TENANT, "bad")] == [
        pod["metadata"]["uid"]
    ]
    for name in ("bad", "good"):
        await shared.delete(TENANT, name)


def _failures(shared: SimulatedCluster, name: str) -> list[str]:
    """Return the classes that rejected pods of a service, by its status."""
    failures = shared.status(TENANT, name).get("failures", [])
    return [str(each.get("gpuClass", "")) for each in failures]
