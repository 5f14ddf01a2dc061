"""Runtime pods in a shared cluster: what they ask of it, and who may connect to them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from localcluster import paths, waiting
from localcluster.fakes import callers
from localcluster.release import SYSTEM, condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.release import Release, Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

RESTRICTED: Final = "pod-security.kubernetes.io/enforce=restricted"
START_S: Final = 90
STRANGERS: Final = 14


async def _status_of_upgrade(address: str, query: str) -> int:
    try:
        async with connect(f"ws://{address}/v1/realtime?{query}"):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_only_the_gateway_takes_slots_of_a_pod_in_a_restricted_namespace(
    space: Space,
) -> None:
    await space.cluster.kubectl("label", "namespace", space.name, RESTRICTED)
    await space.apply("closed", replicas=1, placement={"gpuClasses": ["a100-80gb"]})
    ready = await space.ready("closed", within_s=START_S)
    (pod,) = await space.pods("closed")
    assert pod["status"]["qosClass"] == "Burstable"
    resources = pod["spec"]["containers"][0]["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()

    free, model = ready["status"]["freeSessions"], f"model={space.name}/closed"
    assert free
    address = f"{pod['status']['podIP']}:8080"
    queries = [model, f"{model}&refuse=close"] * (STRANGERS // 2)
    upgrades = await asyncio.gather(*(_status_of_upgrade(address, query) for query in queries))
    assert set(upgrades) == {401}
    # Every slot is still there for callers of the gateway, all at once.
    async with callers.calling(space, "closed", free) as talking:
        await talking.leave()
    async with callers.calling(space, "closed", 1, at=address) as direct:  # with its token
        await direct.leave()


@asynccontextmanager
async def _network_policies(release: Release) -> AsyncIterator[None]:
    """Enable the network policies of the release, and disable them at the end."""
    await _set_network_policies(release, "true")
    try:
        yield
    finally:
        await _set_network_policies(release, "false")


async def _set_network_policies(release: Release, enabled: str) -> None:
    await release.cluster.helm(
        "upgrade", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
        "--namespace", SYSTEM, "--reuse-values", "--set", f"networkPolicy.enabled={enabled}",
        "--no-hooks", "--wait", "--timeout", "120s",
    )  # fmt: skip


async def _policies(space: Space) -> dict[str, dict[str, Any]]:
    found = json.loads(await space.kubectl("get", "networkpolicies", "-o", "json"))["items"]
    return {each["metadata"]["name"]: each for each in found}


async def test_each_service_has_a_network_policy_and_those_of_others_stay(space: Space) -> None:
    foreign = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "taken-network"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]},
    }
    await space.kubectl_apply(yaml.safe_dump(foreign))
    before = (await _policies(space))["taken-network"]
    async with _network_policies(space.release):
        for name in ("ours", "taken"):
            await space.apply(name, replicas=0)
        policies = await waiting.until(
            lambda: _policies(space),
            lambda found: "ours-network" in found,
            "the policy of the service",
            60,
        )
        ours = policies["ours-network"]
        assert ours["metadata"]["ownerReferences"][0]["name"] == "ours"
        sessions, admin = ours["spec"]["ingress"]
        (gateway,) = sessions["from"]
        assert sessions["ports"] == [{"port": 8080, "protocol": "TCP"}]
        assert gateway["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": SYSTEM
        }
        assert admin["ports"] == [{"port": 9090, "protocol": "TCP"}]
        await waiting.until(
            lambda: space.service("taken"),
            lambda seen: condition(seen, "Degraded").get("reason") == "NameTaken",
            "the service says that the name is taken",
        )
        (other,) = [name for name in await _policies(space) if name.startswith("taken-network-")]
        assert other != "taken-network"
        upstream = {"mode": "bridge", "url": "wss://rt.example/v1/realtime"}
        await space.apply("bridged", replicas=0, upstream=upstream)
        bridged = await waiting.until(
            lambda: space.service("bridged"),
            lambda seen: condition(seen, "UpstreamAllowed").get("status") == "False",
            "the service says that its upstream has no rule",
        )
        told = condition(bridged, "UpstreamAllowed")["message"]
        assert "rt.example:443" in told
        assert "networkPolicy.runtime.extraEgress" in told
        assert condition(bridged, "Ready")["status"] == "True"
        await space.kubectl("delete", "avs", "ours", "taken", "bridged")
        left = await waiting.until(
            lambda: _policies(space), lambda found: len(found) == 1, "only the policy of others", 60
        )
        assert left == {"taken-network": before}
