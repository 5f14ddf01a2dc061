"""GPUs of a DRA driver, and nodes that autoscalers take away, with hollow pods.

The API server, the scheduler, the controllers of claims and the operator with the permissions of
its account are real. The driver is the ResourceSlices that a test creates.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml

from avatar_contracts.labels import ENV_GPU_PROFILE
from localcluster import waiting
from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster
from localcluster.fakes.devices import DRIVER, device_class, gpu, resource_slice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

OURS: Final = "acme"
NODE: Final = "claimed-0"
L40S: Final[dict[str, Any]] = {"replicas": 1, "placement": {"gpuClasses": ["l40s"]}}
PATIENCE_S: Final = 90.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("devices") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (OURS,)) as opened,
    ):
        await opened.hollow_nodes.add_node(NODE, labels={}, resources={})
        yield opened


@asynccontextmanager
async def published(cluster: ControlPlane, *devices: dict[str, Any]) -> AsyncIterator[None]:
    """Publish devices of the node for a while."""
    manifest = yaml.safe_dump_all([device_class(), resource_slice(NODE, *devices)])
    await cluster.kubectl("apply", "-f", "-", stdin=manifest)
    try:
        yield
    finally:
        await cluster.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=manifest)


async def allocated(cluster: ControlPlane) -> dict[str, str]:
    """Return the device that each pod of the namespace has by a claim."""
    listed = json.loads(await cluster.kubectl("get", "resourceclaims", "-n", OURS, "-o", "json"))
    found = {}
    for claim in listed["items"]:
        for user in claim.get("status", {}).get("reservedFor", ()):
            (result,) = claim["status"]["allocation"]["devices"]["results"]
            found[user["name"]] = result["device"]
    return found


def bridged_pod() -> dict[str, Any]:
    """Return a pod of another team that asks for nvidia.com/gpu on the node of the driver."""
    container = {"name": "c", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bridged", "namespace": OURS},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [container],
        },
    }


def names(simulated: SimulatedCluster, service: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in simulated.pods_of(OURS, service)]


def lacks(simulated: SimulatedCluster, service: str, said: str) -> bool:
    found = simulated.condition(OURS, service, "GPUAvailable")
    return found.get("status") == "False" and said in found["message"]


async def allow_shared(simulated: SimulatedCluster, allowed: bool) -> None:
    patch = json.dumps({"spec": {"allowShared": allowed}})
    await simulated.cluster.kubectl("patch", "gpup", "rtx-3090", "--type=merge", "-p", patch)


async def ready(simulated: SimulatedCluster, service: str) -> None:
    def holds() -> bool:
        status = simulated.status(OURS, service)
        return bool(status.get("readyReplicas") == 1 == status.get("desiredReplicas"))

    await simulated.until(holds, f"{service} is ready", PATIENCE_S)


async def test_pods_claim_the_gpus_of_a_driver_and_the_last_one_is_said_to_be_taken(
    simulated: SimulatedCluster,
) -> None:
    cluster = simulated.cluster
    async with published(cluster, gpu(0), gpu(1)):
        # Another team's pod has one of the two GPUs, by the bridge for extended resources.
        await cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(bridged_pod()))
        await waiting.until(
            lambda: allocated(cluster), lambda found: "bridged" in found, "bridged", PATIENCE_S
        )
        await simulated.apply(OURS, "first", **L40S)
        await ready(simulated, "first")
        (pod,) = simulated.pods_of(OURS, "first")
        assert pod["spec"]["nodeName"] == NODE
        assert "affinity" not in pod["spec"]
        devices = await allocated(cluster)
        assert devices.keys() == {"bridged", pod["metadata"]["name"]}
        assert set(devices.values()) == {"gpu-0", "gpu-1"}

        await simulated.apply(OURS, "second", **L40S)
        said = "l40s"
        await simulated.until(
            lambda: lacks(simulated, "second", said), "no GPU is left", PATIENCE_S
        )
        assert simulated.condition(OURS, "second", "GPUAvailable")["reason"] == "NoFreeGPU"
        assert names(simulated, "second") == []  # the scheduler would only reject it

        await cluster.kubectl("delete", "pod", "bridged", "-n", OURS)
        await ready(simulated, "second")
        for service in ("first", "second"):
            await simulated.delete(OURS, service)

        async def templates() -> str:
            return await cluster.kubectl("get", "resourceclaimtemplates", "-n", OURS, "-o", "name")

        await waiting.until(templates, lambda found: not found, "no template is left", PATIENCE_S)


async def test_slices_of_mig_are_claimed_by_their_own_class(simulated: SimulatedCluster) -> None:
    product, profile = "NVIDIA A100-SXM4-80GB", "3g.40gb"
    part = gpu(0, product, "40192Mi", kind="mig", profile=profile)
    async with published(simulated.cluster, gpu(1), part):
        manifest = yaml.safe_dump(device_class("mig"))
        await simulated.cluster.kubectl("apply", "-f", "-", stdin=manifest)
        placement = {"gpuClasses": ["a100-3g.40gb"]}
        await simulated.apply(OURS, "sliced", replicas=1, placement=placement)
        await ready(simulated, "sliced")
        assert set((await allocated(simulated.cluster)).values()) == {part["name"]}
        await simulated.delete(OURS, "sliced")
        await simulated.cluster.kubectl("delete", "-f", "-", stdin=manifest)


async def test_a_missing_device_class_is_told(simulated: SimulatedCluster) -> None:
    async with published(simulated.cluster, gpu(0)):
        await simulated.cluster.kubectl("delete", "deviceclass", DRIVER)
        await simulated.apply(OURS, "waits", **L40S)
        said = f"the DeviceClass {DRIVER} does not exist"
        await simulated.until(lambda: lacks(simulated, "waits", said), "it is told", PATIENCE_S)
        manifest = yaml.safe_dump(device_class())
        await simulated.cluster.kubectl("apply", "-f", "-", stdin=manifest)
        await ready(simulated, "waits")
        await simulated.delete(OURS, "waits")


@pytest.mark.parametrize("strategy", ["time-slicing", "mps"])
async def test_two_services_share_a_card_if_its_profile_allows_it(
    simulated: SimulatedCluster, strategy: str
) -> None:
    node, labels = f"shared-{strategy}", "nvidia.com/gpu"
    shared = {"product": "NVIDIA-GeForce-RTX-3090-SHARED", "memory": "24576", "count": "1"}
    shared |= {"replicas": "2", "sharing-strategy": strategy}
    await simulated.hollow_nodes.add_node(
        node, {f"{labels}.{key}": value for key, value in shared.items()}, {labels: "2"}
    )
    card = {"replicas": 1, "placement": {"gpuClasses": ["rtx-3090"]}}
    await simulated.apply(OURS, "left", **card)
    said = "is shared by 2, which rtx-3090 does not allow"
    await simulated.until(lambda: lacks(simulated, "left", said), "it is refused", PATIENCE_S)
    await allow_shared(simulated, True)
    try:
        await ready(simulated, "left")
        await simulated.apply(OURS, "right", **card)
        await ready(simulated, "right")
        for service in ("left", "right"):
            (pod,) = simulated.pods_of(OURS, service)
            assert pod["spec"]["nodeName"] == node
            (container,) = pod["spec"]["containers"]
            assert container["resources"]["limits"][labels] == "1"
            env = {each["name"]: each.get("value") for each in container["env"]}
            assert json.loads(env[ENV_GPU_PROFILE])["memoryMiB"] == 24576 // 2
        await simulated.apply(OURS, "third", **card)
        await simulated.until(
            lambda: lacks(simulated, "third", "rtx-3090"), "both shares are used", PATIENCE_S
        )
        for service in ("left", "right", "third"):
            await simulated.delete(OURS, service)
    finally:
        await allow_shared(simulated, False)
    simulated.hollow_nodes.forget_node(node)
    await simulated.cluster.kubectl("delete", "node", node)


async def test_a_node_that_karpenter_disrupts_is_left_when_its_sessions_have_moved(
    simulated: SimulatedCluster,
) -> None:
    await simulated.apply(OURS, "moved", replicas=1, placement={"gpuClasses": ["rtx-4090"]})
    await ready(simulated, "moved")
    (old,) = simulated.hollow_pods(OURS, "moved")
    await simulated.hollow_nodes.set_sessions(old, 3)
    taint = "karpenter.sh/disrupted"
    await simulated.cluster.kubectl("taint", "node", old.node, f"{taint}:NoSchedule")
    try:
        await simulated.until(
            lambda: old.draining and len(simulated.hollow_pods(OURS, "moved")) == 2,
            "another pod is ready, and the old one drains",
            PATIENCE_S,
        )
        (new,) = (pod for pod in simulated.hollow_pods(OURS, "moved") if pod is not old)
        assert new.node != old.node
        message = f"its node {old.node} leaves: Karpenter disrupts it"
        await simulated.until(
            lambda: message in simulated.condition(OURS, "moved", "Draining")["message"],
            "the reason is told",
            PATIENCE_S,
        )
        await simulated.hollow_nodes.set_sessions(old, 0)
        await simulated.until(
            lambda: names(simulated, "moved") == [new.name], "the old pod is gone", PATIENCE_S
        )
        assert simulated.hollow_nodes.deleted_with_sessions == []
    finally:
        await simulated.cluster.kubectl("taint", "node", old.node, f"{taint}-")
        await simulated.delete(OURS, "moved")
