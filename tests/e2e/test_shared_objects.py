"""Objects of strangers that have the names or the labels of a service's own objects."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from localcluster import operator_process, paths, waiting
from localcluster.controlplane import audit
from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.kubeapi import Body
    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT = "acme"
SECOND_TENANT = "globex"
SECRETS = f"/api/v1/namespaces/{TENANT}/secrets"
PDBS = f"/apis/policy/v1/namespaces/{TENANT}/poddisruptionbudgets"
PODS = f"/api/v1/namespaces/{TENANT}/pods"
SERVICE_LABEL = "avatar.musetalk.io/service"
MANAGED_BY = "app.kubernetes.io/managed-by"


@contextlib.asynccontextmanager
async def _installation(shared: SimulatedCluster, release: str) -> AsyncIterator[str]:
    """Run the operator of another release, and yield the name of its account."""
    cluster, system = shared.cluster, f"{release}-system"
    name = f"{release}-avatar-operator"
    values = {
        "operator": {"watchNamespaces": [SECOND_TENANT]},
        "gpuProfiles": {"enabled": False},  # they have no namespace: those of one release serve all
    }
    chart = paths.REPOSITORY / "charts" / "avatar-operator"
    await cluster.helm(
        *("install", release, chart, "-n", system, "--create-namespace", "--values", "-"),
        stdin=json.dumps(values),
    )
    account = f"{name}-operator"
    kubeconfig = await cluster.service_account_kubeconfig(system, account)
    settings = {
        "AVATAR_NAMESPACE": system,
        "AVATAR_LEASE": account,
        "AVATAR_CONTROL_SECRET": f"{name}-control",
        "AVATAR_GATEWAY_SECRET": f"{name}-gateway-key",
    }
    options = {"name": release, "namespaces": (SECOND_TENANT,), "settings": settings}
    async with operator_process.operating(cluster, Path(kubeconfig), **options):
        yield f"system:serviceaccount:{system}:{account}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("shared") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (TENANT,)) as opened,
    ):
        yield opened


def _has_sessions(shared: SimulatedCluster, count: int) -> bool:
    return bool(shared.status(SECOND_TENANT, "twin")["sessions"] == count)


async def _events(
    shared: SimulatedCluster, service: str, reason: str, count: int, namespace: str = TENANT
) -> list[str]:
    """Return the messages of a service's Events; they follow the status, so wait for `count`."""
    uid = shared.services.objects[namespace, service]["metadata"]["uid"]

    async def messages() -> list[str]:
        found, _ = await shared.api.list(f"/api/v1/namespaces/{namespace}/events")
        return [
            event["message"]
            for event in found
            if event["involvedObject"]["uid"] == uid and event["reason"] == reason
        ]

    return await waiting.until(messages, lambda found: len(found) >= count, f"{reason} is said")


def _pod(shared: SimulatedCluster, name: str) -> Body | None:
    return shared.pods.objects.get((TENANT, name))


def _stranger(name: str, **labels: str) -> Body:
    """Return a pod that no node accepts, so that it stays as it is."""
    container = {"name": "c", "image": "stranger", "resources": {"requests": {"cpu": "9000"}}}
    metadata = {"name": name, "namespace": TENANT, "labels": labels}
    return {"metadata": metadata, "spec": {"containers": [container]}}


async def test_a_secret_and_a_pdb_of_strangers_are_left_alone_and_named(
    shared: SimulatedCluster,
) -> None:
    metadata = {"namespace": TENANT}
    selector = {"matchLabels": {"app": "database"}}
    secret = await shared.api.post(
        SECRETS, {"metadata": {**metadata, "name": "db-control"}, "stringData": {"token": "mine"}}
    )
    spec = {"minAvailable": 1, "selector": selector}
    pdb = await shared.api.post(PDBS, {"metadata": {**metadata, "name": "db-live"}, "spec": spec})
    await shared.apply(TENANT, "db", replicas=1)
    await shared.ready(TENANT, "db", pods=1)
    uid = shared.services.objects[TENANT, "db"]["metadata"]["uid"][:8]
    degraded = shared.condition(TENANT, "db", "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NameTaken")
    assert "Secret db-control does not belong" in degraded["message"]
    assert "PodDisruptionBudget db-live does not belong" in degraded["message"]
    assert len(await _events(shared, "db", "NameTaken", 2)) == 2
    (pod,) = shared.pods_of(TENANT, "db")
    mounted = [each["secret"] for each in pod["spec"]["volumes"] if "secret" in each]
    assert [each["secretName"] for each in mounted] == [f"db-control-{uid}"]
    own = await shared.api.get(f"{SECRETS}/db-control-{uid}")
    assert own["metadata"]["ownerReferences"][0]["name"] == "db"
    assert (await shared.api.get(f"{PDBS}/db-live-{uid}"))["spec"]["minAvailable"] == 1_000_000
    await shared.delete(TENANT, "db")
    after_secret = await shared.api.get(f"{SECRETS}/db-control")
    after_pdb = await shared.api.get(f"{PDBS}/db-live")
    assert after_secret == secret
    for each in (pdb, after_pdb):  # the controller manager counts pods in its status
        each.pop("status"), each["metadata"].pop("resourceVersion")
        each["metadata"]["managedFields"] = [
            entry for entry in each["metadata"]["managedFields"] if "subresource" not in entry
        ]
    assert after_pdb == pdb


async def test_the_pod_name_of_a_stranger_is_skipped_and_its_pod_is_kept(
    shared: SimulatedCluster,
) -> None:
    await shared.apply(TENANT, "front", replicas=1)
    await shared.ready(TENANT, "front", pods=1)
    (own,) = shared.pods_of(TENANT, "front")
    name = own["metadata"]["name"]
    await shared.delete(TENANT, "front")
    # The labels of a runtime pod make it no pod of the service either.
    labels = {SERVICE_LABEL: "front", MANAGED_BY: "avatar-operator"}
    made = await shared.api.post(PODS, _stranger(name, **labels))
    await shared.apply(TENANT, "front", replicas=1)
    await shared.ready(TENANT, "front", pods=1)
    await shared.until(lambda: _pod(shared, f"{name[:-1]}1") is not None, "the next name is used")
    events = await _events(shared, "front", "NameTaken", 1)
    assert [name in event for event in events] == [True], events
    assert shared.status(TENANT, "front")["replicas"] == 1
    service = shared.services.objects[TENANT, "front"]["metadata"]["name"]
    await shared.api.delete(
        f"{simulated_cluster.GROUP}/namespaces/{TENANT}/avatarservices/{service}"
    )
    await shared.until(lambda: _pod(shared, f"{name[:-1]}1") is None, "the own pod is deleted")
    stranger = _pod(shared, name)
    assert stranger is not None
    assert stranger["metadata"]["uid"] == made["metadata"]["uid"]
    assert "deletionTimestamp" not in stranger["metadata"]
    await shared.api.delete(f"{PODS}/{name}", {"gracePeriodSeconds": 0})


async def test_a_relabelled_pod_keeps_its_sessions_and_gets_its_labels_back(
    shared: SimulatedCluster,
) -> None:
    await shared.apply(TENANT, "calm", replicas=1)
    await shared.ready(TENANT, "calm", pods=1)
    (hollow,) = shared.hollow_pods(TENANT, "calm")
    await shared.hollow_nodes.set_sessions(hollow, 1)
    await shared.until(lambda: shared.status(TENANT, "calm")["sessions"] == 1, "it has a session")
    before = _pod(shared, hollow.name)
    assert before is not None
    labels: dict[str, Any] = {SERVICE_LABEL: "stolen", MANAGED_BY: None}
    await shared.api.merge(f"{PODS}/{hollow.name}", {"metadata": {"labels": labels}})

    def restored() -> bool:
        pod = _pod(shared, hollow.name)
        found = pod["metadata"]["labels"] if pod is not None else {}
        return found.get(SERVICE_LABEL) == "calm" and found.get(MANAGED_BY) == "avatar-operator"

    await shared.until(restored, "the labels are restored")
    await shared.ready(TENANT, "calm", pods=1)
    (after,) = shared.pods_of(TENANT, "calm")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert len(await _events(shared, "calm", "LabelsRestored", 1)) == 1
    assert shared.hollow_nodes.deleted_with_sessions == []
    await shared.hollow_nodes.set_sessions(hollow, 0)
    await shared.delete(TENANT, "calm")


async def test_a_pod_that_lost_its_owner_is_replaced_and_never_deleted(
    shared: SimulatedCluster,
) -> None:
    await shared.apply(TENANT, "orphan", replicas=1)
    await shared.ready(TENANT, "orphan", pods=1)
    (hollow,) = shared.hollow_pods(TENANT, "orphan")
    await shared.hollow_nodes.set_sessions(hollow, 1)
    await shared.until(lambda: shared.status(TENANT, "orphan")["sessions"] == 1, "has a session")
    await shared.api.merge(f"{PODS}/{hollow.name}", {"metadata": {"ownerReferences": None}})
    second = f"{hollow.name[:-1]}1"
    await shared.until(lambda: _pod(shared, second) is not None, "the next index is used")
    await shared.ready(TENANT, "orphan", pods=1)
    (event,) = await _events(shared, "orphan", "NameTaken", 1)
    assert hollow.name in event
    await shared.api.delete(f"{simulated_cluster.GROUP}/namespaces/{TENANT}/avatarservices/orphan")
    await shared.until(lambda: _pod(shared, second) is None, "the own pod is deleted")
    kept = _pod(shared, hollow.name)
    assert kept is not None
    assert "deletionTimestamp" not in kept["metadata"]
    assert shared.hollow_nodes.deleted_with_sessions == []


async def test_one_of_two_operators_manages_a_service_and_the_other_one_stands_back(
    shared: SimulatedCluster,
) -> None:
    await shared.cluster.kubectl("create", "namespace", SECOND_TENANT)
    async with contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        await stack.enter_async_context(first)
        await first.enter_async_context(_installation(shared, "first"))
        await shared.apply(SECOND_TENANT, "twin", replicas=1)
        await shared.ready(SECOND_TENANT, "twin", pods=1)
        second = await stack.enter_async_context(_installation(shared, "second"))
        owner = "first-system/first-avatar-operator-operator"
        assert shared.status(SECOND_TENANT, "twin")["operator"] == owner
        (event,) = await _events(shared, "twin", "ManagedElsewhere", 1, SECOND_TENANT)
        assert owner in event
        (hollow,) = shared.hollow_pods(SECOND_TENANT, "twin")
        for sessions in (1, 2, 1, 2):
            await shared.hollow_nodes.set_sessions(hollow, sessions)
            await shared.until(
                partial(_has_sessions, shared, sessions),
                "the first operator writes the status",
            )
        await shared.apply(SECOND_TENANT, "twin", replicas=2)
        await shared.ready(SECOND_TENANT, "twin", pods=2)
        writes = audit.read(shared.cluster.audit_log, second)
        of_tenant = [(w.verb, w.resource) for w in writes if w.namespace == SECOND_TENANT]
        assert of_tenant == [("create", "events")]
        assert not [w for w in writes if w.resource.startswith("gpuprofiles")]
        assert len(shared.pods_of(SECOND_TENANT, "twin")) == 2

        # The first release is uninstalled, and its Lease with it.
        await first.aclose()
        lease = "/apis/coordination.k8s.io/v1/namespaces/first-system/leases"
        await shared.api.delete(f"{lease}/first-avatar-operator-operator")
        heir = "second-system/second-avatar-operator-operator"
        await shared.until(
            lambda: shared.status(SECOND_TENANT, "twin")["operator"] == heir,
            "the second operator takes the service over",
            within_s=60,
        )
        await shared.until(
            lambda: shared.status(SECOND_TENANT, "twin")["sessions"] == 2, "the sessions stay"
        )
        assert shared.hollow_nodes.deleted_with_sessions == []
