"""What statuses and Events say about services, and what kstatus concludes, on hollow nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml

from localcluster import errors
from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster
from localcluster.fakes.mixed_nodes import MixedNodes
from localcluster.faults.shared_campaign import GPUClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.controlplane.kubeapi import Api
    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT: Final = "acme"
ELSEWHERE: Final = "elsewhere"
SERVICES: Final = "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices"
MISSING_IMAGE: Final = "registry.example/avatar-runtime:missing"
CLASSES: Final = (GPUClass("rtx-4090", "NVIDIA-GeForce-RTX-4090", 24564, nodes=2, gpus_per_node=1),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("status") / "cluster"

    def nodes(api: Api) -> MixedNodes:
        return MixedNodes(api, CLASSES, missing_image=MISSING_IMAGE)

    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (TENANT,), nodes) as opened,
    ):
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(shared: SimulatedCluster) -> AsyncIterator[SimulatedCluster]:
    """Give the cluster; when the test ends, its services go and free their GPUs."""
    yield shared
    for pod in list(shared.hollow_nodes.hollow_pods.values()):
        await shared.hollow_nodes.set_sessions(pod, 0)  # a failed test may leave some
    await shared.cluster.kubectl("delete", "avs", "--all", "-n", TENANT, "--timeout=30s")
    await shared.until(lambda: not shared.pods.of(TENANT), "no pods of an earlier test")


def judged(tenant: SimulatedCluster, name: str) -> str:
    """Return the reason of Ready, or an empty string while it is True or unknown."""
    ready = tenant.condition(TENANT, name, "Ready")
    return str(ready["reason"]) if ready.get("status") == "False" else ""


async def says(tenant: SimulatedCluster, name: str, reason: str) -> None:
    """Wait until Ready is False for a reason."""
    await tenant.until(lambda: judged(tenant, name) == reason, f"{name} says {reason}")


async def events(tenant: SimulatedCluster, name: str) -> list[dict[str, Any]]:
    found = await tenant.cluster.kubectl("get", "events", "-n", TENANT, "-o", "json")
    return [each for each in json.loads(found)["items"] if each["involvedObject"]["name"] == name]


REFUSED: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "no-priority": (
        {"template": {"priorityClassName": "gold"}},
        "PriorityClassNotFound",
        "no PriorityClass with name gold was found",
    ),
    "no-runtime": (
        {"template": {"runtimeClassName": "gvisor"}},
        "RuntimeClassNotFound",
        'RuntimeClass "gvisor" not found',
    ),
    "no-account": (
        {"template": {"serviceAccountName": "bot"}},
        "ServiceAccountNotFound",
        'serviceaccount "bot" not found',
    ),
    "not-secure": (
        {"model": {"source": {"hostPath": {"path": "/models"}}}},
        "PodSecurityViolation",
        'violates PodSecurity "baseline:latest": hostPath volumes',
    ),
}
"""What makes the API server refuse a pod, and the reason with its words."""


async def test_a_refused_pod_has_a_reason_of_its_own(tenant: SimulatedCluster) -> None:
    label = "pod-security.kubernetes.io/enforce"
    await tenant.cluster.kubectl("label", "namespace", TENANT, f"{label}=baseline")
    try:
        for name, (spec, _, _) in REFUSED.items():
            await tenant.apply(TENANT, name, replicas=1, **spec)
        for name, (_, reason, words) in REFUSED.items():
            await says(tenant, name, reason)
            assert words in tenant.condition(TENANT, name, "Ready")["message"]
            stalled = tenant.condition(TENANT, name, "Stalled")
            assert (stalled["status"], stalled["reason"]) == ("True", reason)
            assert tenant.condition(TENANT, name, "GPUAvailable")["reason"] == "GPUFree"
    finally:
        await tenant.cluster.kubectl("label", "namespace", TENANT, f"{label}-")


async def test_a_quota_is_the_reason_and_no_gpu_is_called_allocated(
    tenant: SimulatedCluster,
) -> None:
    await tenant.cluster.kubectl("create", "quota", "none", "--hard=pods=0", "-n", TENANT)
    try:
        await tenant.apply(TENANT, "limited", replicas=1)
        await says(tenant, "limited", "QuotaExceeded")
        message = tenant.condition(TENANT, "limited", "Ready")["message"]
        assert "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0" in message
        assert tenant.condition(TENANT, "limited", "Stalled") == {}  # another pod may end
        assert tenant.condition(TENANT, "limited", "Reconciling")["status"] == "True"
        gpu = tenant.condition(TENANT, "limited", "GPUAvailable")
        assert gpu["reason"] == "GPUFree"
        assert "cannot be created" in gpu["message"]
    finally:
        await tenant.cluster.kubectl("delete", "quota", "none", "-n", TENANT)
    await tenant.ready(TENANT, "limited", pods=1)


async def test_a_normal_start_posts_no_warning(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "normal", replicas=1)
    await tenant.ready(TENANT, "normal", pods=1)
    found = await events(tenant, "normal")
    assert {event["type"] for event in found} == {"Normal"}
    assert {"PodCreated", "Serving"} <= {event["reason"] for event in found}
    kinds = {each["type"] for each in tenant.status(TENANT, "normal")["conditions"]}
    assert kinds.isdisjoint({"Stalled", "Reconciling"})


async def test_a_service_with_sessions_is_not_scaled_to_zero(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "ending", replicas=1)
    await tenant.ready(TENANT, "ending", pods=1)
    (pod,) = tenant.hollow_pods(TENANT, "ending")
    await tenant.hollow_nodes.set_sessions(pod, 2)
    await tenant.until(lambda: tenant.status(TENANT, "ending").get("sessions") == 2, "two sessions")
    await tenant.apply(TENANT, "ending", replicas=0)
    await tenant.until(
        lambda: tenant.condition(TENANT, "ending", "Draining").get("status") == "True",
        "the pod drains",
    )
    assert tenant.status(TENANT, "ending")["state"] == "ScalingDown"
    assert "1 pod with 2 sessions" in tenant.condition(TENANT, "ending", "Ready")["message"]
    await tenant.hollow_nodes.set_sessions(pod, 0)
    await tenant.until(
        lambda: tenant.status(TENANT, "ending").get("state") == "ScaledToZero", "scaled to zero"
    )
    assert tenant.pods_of(TENANT, "ending") == []


async def test_cordon_and_loss_of_a_node_are_told(tenant: SimulatedCluster) -> None:
    kubectl = tenant.cluster.kubectl
    await tenant.apply(TENANT, "moved", replicas=2)
    await tenant.ready(TENANT, "moved", pods=2)
    one, other = (pod["spec"]["nodeName"] for pod in tenant.pods_of(TENANT, "moved"))
    await kubectl("cordon", one)
    try:
        await tenant.until(
            lambda: (
                f"(its node {one} is cordoned)"
                in tenant.condition(TENANT, "moved", "Progressing").get("message", "")
            ),
            "the cordoned node is named",
        )
        message = tenant.condition(TENANT, "moved", "GPUAvailable")["message"]
        assert f"node {one} excluded: cordoned" in message
    finally:
        await kubectl("uncordon", one)
    await tenant.ready(TENANT, "moved", pods=2)
    await tenant.hollow_nodes.disconnect(other)
    try:
        await tenant.until(
            lambda: tenant.condition(TENANT, "moved", "Degraded").get("reason") == "NodeLost",
            "the lost node degrades the service",
        )
        (lost,) = [e for e in await events(tenant, "moved") if e["reason"] == "NodeLost"]
        assert lost["type"] == "Warning"
        assert f"is on the lost node {other}" in lost["message"]
    finally:
        await tenant.hollow_nodes.reconnect(other)
    await tenant.ready(TENANT, "moved", pods=2)


async def test_a_wrong_annotation_is_told_and_ignored(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "noted", replicas=1)
    await tenant.ready(TENANT, "noted", pods=1)
    paused = "avatar.musetalk.io/paused"
    await tenant.cluster.kubectl("annotate", "avs", "noted", "-n", TENANT, f"{paused}=yes")
    message = f'annotation {paused} is "yes" and is ignored, must be true or false'
    await tenant.until(
        lambda: tenant.condition(TENANT, "noted", "Degraded").get("message") == message,
        "the wrong value is told",
    )
    reasons = {event["reason"]: event["type"] for event in await events(tenant, "noted")}
    assert reasons["InvalidAnnotation"] == "Warning"
    await tenant.cluster.kubectl("annotate", "avs", "noted", "-n", TENANT, f"{paused}-")
    await tenant.until(
        lambda: tenant.condition(TENANT, "noted", "Degraded").get("status") == "False", "is fine"
    )


def degraded(tenant: SimulatedCluster, name: str) -> tuple[str, str]:
    found = tenant.condition(TENANT, name, "Degraded")
    return found.get("reason", ""), found.get("message", "")


async def test_a_broken_rollout_shows_at_once(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "rolled", replicas=1)
    await tenant.ready(TENANT, "rolled", pods=1)
    await tenant.apply(TENANT, "rolled", replicas=1, template={"image": MISSING_IMAGE})
    await tenant.until(
        lambda: "ImagePullBackOff" in degraded(tenant, "rolled")[1], "Degraded names the pull", 5
    )
    assert tenant.condition(TENANT, "rolled", "Ready")["status"] == "True"


async def test_a_pod_makes_no_room_for_an_image_that_cannot_be_pulled(
    tenant: SimulatedCluster,
) -> None:
    await tenant.apply(TENANT, "full", replicas=2)
    await tenant.ready(TENANT, "full", pods=2)
    before = {pod["metadata"]["uid"] for pod in tenant.pods_of(TENANT, "full")}
    await tenant.apply(TENANT, "full", replicas=2, template={"image": MISSING_IMAGE})
    await tenant.until(
        lambda: degraded(tenant, "full")[0] == "ImageNotPulled", "Degraded says so", 10
    )
    assert "ImagePullBackOff" in degraded(tenant, "full")[1]
    assert tenant.condition(TENANT, "full", "Ready")["status"] == "True"
    assert tenant.condition(TENANT, "full", "Draining")["status"] == "False"
    assert {pod["metadata"]["uid"] for pod in tenant.pods_of(TENANT, "full")} == before
    assert not any(pod.draining for pod in tenant.hollow_pods(TENANT, "full"))
    (check,) = [
        pod
        for pod in tenant.pods.of(TENANT)
        if "avatar.musetalk.io/image-check" in pod["metadata"]["labels"]
    ]
    assert "nvidia.com/gpu" not in check["spec"]["containers"][0]["resources"]["requests"]
    await tenant.apply(TENANT, "full", replicas=2, template={"image": "registry.example/new"})
    await tenant.ready(TENANT, "full", pods=2)
    assert {pod["metadata"]["uid"] for pod in tenant.pods_of(TENANT, "full")}.isdisjoint(before)
    await tenant.until(lambda: len(tenant.pods.of(TENANT)) == 2, "the check is deleted")


async def test_scale_of_every_service_can_be_read(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "scaled", autoscaling={"minReplicas": 2, "maxReplicas": 2})
    await tenant.apply(TENANT, "plain", placement={"gpuClasses": ["l4"]})
    await tenant.until(
        lambda: tenant.status(TENANT, "scaled").get("replicas") == 2, "the pods exist"
    )
    scale = await tenant.api.get(f"{SERVICES}/scaled/scale")
    assert scale["status"]["replicas"] == 2
    scale = await tenant.api.get(f"{SERVICES}/plain/scale")
    assert scale["spec"]["replicas"] == 1


async def test_a_service_that_nobody_reconciles_says_so(tenant: SimulatedCluster) -> None:
    kubectl = tenant.cluster.kubectl
    await kubectl("create", "namespace", ELSEWHERE)
    await kubectl("apply", "-n", ELSEWHERE, "-f", "-", stdin=manifest("lonely", {"replicas": 1}))
    assert "NotReconciled" in await kubectl("get", "avs", "-n", ELSEWHERE)
    body = json.loads(await kubectl("get", "avs", "lonely", "-n", ELSEWHERE, "-o", "json"))
    assert body["status"]["observedGeneration"] == -1
    (ready,) = body["status"]["conditions"]
    assert (ready["type"], ready["status"]) == ("Ready", "Unknown")
    assert "watchNamespaces" in ready["message"]


def manifest(name: str, spec: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def chart(folder: Path, name: str, spec: dict[str, Any]) -> Path:
    """Write a chart with one AvatarService."""
    root = folder / name
    (root / "templates").mkdir(parents=True)
    (root / "Chart.yaml").write_text(
        yaml.safe_dump({"apiVersion": "v2", "name": name, "version": "0.1.0"})
    )
    (root / "templates" / "service.yaml").write_text(manifest(name, spec))
    return root


async def test_helm_waits_until_a_service_serves(tenant: SimulatedCluster, tmp_path: Path) -> None:
    """Helm 4 waits with kstatus, the library that Flux and others use."""
    good = chart(tmp_path, "serves", {"replicas": 1})
    await tenant.cluster.helm("install", "serves", good, "-n", TENANT, "--wait", "--timeout=30s")
    assert tenant.condition(TENANT, "serves", "Ready")["status"] == "True"
    await tenant.cluster.helm("uninstall", "serves", "-n", TENANT)


IMPOSSIBLE: Final[dict[str, dict[str, Any]]] = {
    "no-class": {"placement": {"gpuClasses": ["rtx-9999"]}},
    "no-node": {"placement": {"gpuClasses": ["l4"]}},
    "no-image": {"template": {"image": MISSING_IMAGE}},
}


async def test_helm_does_not_call_an_impossible_service_installed(
    tenant: SimulatedCluster, tmp_path: Path
) -> None:
    for name, spec in IMPOSSIBLE.items():
        folder = chart(tmp_path, name, {"replicas": 1, **spec})
        with pytest.raises(errors.CommandFailed) as failed:
            await tenant.cluster.helm(
                "install", name, folder, "-n", TENANT, "--wait", "--timeout=4s"
            )
        assert f"AvatarService/{TENANT}/{name}" in str(failed.value)
        await tenant.cluster.helm("uninstall", name, "-n", TENANT)


async def test_a_deleted_service_that_a_finalizer_keeps_says_so(tenant: SimulatedCluster) -> None:
    await tenant.apply(TENANT, "kept", replicas=1)
    await tenant.ready(TENANT, "kept", pods=1)
    (pod,) = tenant.hollow_pods(TENANT, "kept")
    await tenant.hollow_nodes.set_sessions(pod, 2)
    await tenant.until(lambda: tenant.status(TENANT, "kept")["sessions"] == 2, "its sessions")
    finalizers = [{"op": "add", "path": "/metadata/finalizers", "value": ["example.org/backup"]}]
    patch = ("patch", "avs", "kept", "-n", TENANT, "--type=json")
    await tenant.cluster.kubectl(*patch, "-p", json.dumps(finalizers))
    await tenant.cluster.kubectl("delete", "avs", "kept", "-n", TENANT, "--wait=false")
    await says(tenant, "kept", "Terminating")
    keeps = "the finalizer example.org/backup keeps the service"
    assert keeps in tenant.condition(TENANT, "kept", "Ready")["message"]
    status = tenant.status(TENANT, "kept")
    assert (status["state"], status["readyReplicas"], status["sessions"]) == ("Terminating", 0, 2)
    await tenant.until(lambda: pod.draining, "its pod drains")
    await tenant.hollow_nodes.set_sessions(pod, 0)
    await tenant.until(lambda: not tenant.pods_of(TENANT, "kept"), "its pod has ended")
    await tenant.until(
        lambda: tenant.status(TENANT, "kept")["replicas"] == 0, "status without pods"
    )
    assert keeps in tenant.condition(TENANT, "kept", "Ready")["message"]
    remove = json.dumps([{"op": "remove", "path": "/metadata/finalizers"}])
    await tenant.cluster.kubectl(*patch, "-p", remove)
    await tenant.until(lambda: (TENANT, "kept") not in tenant.services.objects, "it is gone")
    assert tenant.hollow_nodes.deleted_with_sessions == []
