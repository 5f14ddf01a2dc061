"""The quota of a tenant bounds its services on a real control plane, and `kubectl` shows why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster import operator_process, waiting
from localcluster.controlplane import audit
from localcluster.controlplane.cluster import running
from localcluster.fakes import simulated_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

NAMESPACE: Final = "acme"
TENANTS: Final = "/apis/avatar.musetalk.io/v1alpha1/avatartenants"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("tenants") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, (NAMESPACE,)) as opened,
    ):
        yield opened


def exceeded(tenant: dict[str, Any]) -> bool:
    found = {each["type"]: each["status"] for each in tenant["status"]["conditions"]}
    return bool(found["QuotaExceeded"] != "False")


async def test_a_quota_bounds_the_pods_of_a_tenant_and_says_why(
    simulated: SimulatedCluster,
) -> None:
    await simulated.cluster.kubectl("label", "namespace", NAMESPACE, "plan=paid")
    tenant = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarTenant",
        "metadata": {"name": "acme"},
        "spec": {
            "access": {"namespaceSelector": {"matchLabels": {"plan": "paid"}}},
            "apiKeys": {"secretRefs": [{"name": "acme-keys"}]},
            "limits": {"gpus": 2},
        },
    }
    await simulated.api.post(TENANTS, tenant)
    await simulated.apply(NAMESPACE, "front", replicas=4)

    def said() -> str:
        found = simulated.condition(NAMESPACE, "front", "ScalingLimited")
        return found.get("message", "") if found.get("reason") == "TenantQuota" else ""

    words = "wants 4 pods, may have 2; AvatarTenant acme may use 2 GPUs (spec.limits.gpus), "
    words += "no other service"
    await simulated.until(lambda: said().startswith(words), "the quota is named")
    await simulated.ready(NAMESPACE, "front", pods=2)

    # A second service gets its minimum: the first one gives back a pod that has no session.
    busy, idle = simulated.hollow_pods(NAMESPACE, "front")
    await simulated.hollow_nodes.set_sessions(busy, 3)
    await simulated.apply(NAMESPACE, "back", replicas=1)
    await simulated.ready(NAMESPACE, "back", pods=1)
    await simulated.until(
        lambda: [pod.name for pod in simulated.hollow_pods(NAMESPACE, "front")] == [busy.name],
        f"{idle.name} goes, {busy.name} stays",
    )
    assert simulated.hollow_nodes.deleted_with_sessions == []

    shown = await simulated.cluster.kubectl("get", "avt")
    header, row = (line.split() for line in shown.splitlines())
    assert header == [
        "NAME", "READY", "SESSIONS", "MAX", "WAITING", "MINUTES", "GPUS", "KEYS", "AGE",
    ]  # fmt: skip
    assert row[0] == "acme"
    await waiting.until(  # the figures of a status are some seconds old
        lambda: simulated.cluster.kubectl("describe", "avt", "acme"),
        lambda described: "acme/front wants more pods; 2 of 2 GPUs are used" in described,
        "the status names the service",
        30,
    )

    patch = {"spec": {"limits": {"gpus": 5}}}
    await simulated.api.merge(f"{TENANTS}/acme", patch)
    await simulated.ready(NAMESPACE, "front", pods=4)
    await simulated.until(lambda: said() == "", "no limit is left")
    await waiting.until(
        lambda: simulated.api.get(f"{TENANTS}/acme"),
        lambda tenant: tenant["status"]["gpus"] == 5 and not exceeded(tenant),
        "the status counts five GPUs within the limits",
        30,
    )
    for name in ("front", "back"):
        for pod in simulated.hollow_pods(NAMESPACE, name):
            await simulated.hollow_nodes.set_sessions(pod, 0)
        await simulated.delete(NAMESPACE, name)
    writes = audit.read(simulated.cluster.audit_log, operator_process.USER)
    assert [write for write in writes if write.code == 403] == []
