"""Twenty live sessions, and everything that people and machines do to their pods meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import errors, lease_log, waiting
from localcluster.controlplane import components
from localcluster.release import SYSTEM, all_served, condition, processes_with

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SESSIONS: Final = 20
TALK_S: Final = 12.0
LIVE: Final = "avatar.musetalk.io/live"
SPREAD: Final[dict[str, Any]] = {
    "replicas": 2,
    "placement": {"gpuClasses": ["h100-80gb", "a100-80gb"]},
}


async def start(space: Space, name: str, talk_s: float = TALK_S) -> Process:
    """Bring up two pods and twenty sessions on them; every pod with sessions is marked."""
    await space.apply(name, **SPREAD)
    await space.ready(name, pods=2)
    await space.known_to_gateway(name, SESSIONS - 1)  # more than one pod holds
    load = await space.load(name, SESSIONS, talk_s)
    await waiting.until(
        lambda: space.service(name),
        lambda service: (
            load.returncode is not None or service["status"].get("sessions") == SESSIONS
        ),
        f"{SESSIONS} sessions",
    )
    if load.returncode is not None:
        raise AssertionError(await load.communicate())
    await waiting.until(lambda: live(space, name), lambda pods: len(pods) == 2, "both marked")
    return load


async def live(space: Space, name: str) -> list[str]:
    """Return the pods that carry the mark."""
    pods = await space.pods(name)
    return [p["metadata"]["name"] for p in pods if p["metadata"]["labels"].get(LIVE) == "true"]


async def uids(space: Space, name: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in await space.pods(name)}


async def test_spec_change_rolls_out_around_live_sessions(space: Space) -> None:
    load = await start(space, "rolled")
    before = await uids(space, "rolled")
    await space.apply("rolled", **SPREAD, sessions={"idleTimeoutSeconds": 200})
    await waiting.until(
        lambda: uids(space, "rolled"), lambda seen: bool(seen - before), "a new pod comes first"
    )
    await all_served(load, SESSIONS)
    await space.ready("rolled", pods=2)
    assert not await uids(space, "rolled") & before


async def test_scale_down_waits_for_live_sessions(space: Space) -> None:
    load = await start(space, "shrunk")
    await space.kubectl("scale", "avs/shrunk", "--replicas=0")
    await waiting.until(
        lambda: space.service("shrunk"),
        lambda service: condition(service, "Draining").get("status") == "True",
        "the service drains",
    )
    await all_served(load, SESSIONS)
    await waiting.until(lambda: space.pods("shrunk"), lambda pods: pods == [], "no pods", 15)


async def test_node_drain_waits_for_live_sessions_and_then_completes(space: Space) -> None:
    load = await start(space, "moved")
    node = (await space.pods("moved"))[0]["spec"]["nodeName"]
    drain = asyncio.create_task(
        space.cluster.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"
        )
    )
    try:
        await all_served(load, SESSIONS)
        report = await drain
    finally:
        drain.cancel()
        await space.cluster.kubectl("uncordon", node)
    assert f"node/{node} drained" in report
    pods = await space.ready("moved", pods=2)
    assert pods
    assert node not in {pod["spec"]["nodeName"] for pod in await space.pods("moved")}


async def test_guard_refuses_users_and_lets_those_through_who_may(space: Space) -> None:
    load = await start(space, "guarded")
    (first, second) = await live(space, "guarded")
    await space.kubectl("create", "serviceaccount", "user")
    await space.kubectl(
        "create", "rolebinding", "user", "--clusterrole=admin",
        f"--serviceaccount={space.name}:user",
    )  # fmt: skip
    user = await space.cluster.service_account_kubeconfig(space.name, "user")
    for who in ((f"--kubeconfig={user}",), ()):  # an admin of the namespace, one of the cluster
        with pytest.raises(errors.CommandFailed) as refusal:
            await space.kubectl("delete", "pod", first, "--grace-period=0", "--force", *who)
        for words in (first, f"{space.name}/guarded", "avatar.musetalk.io/drain=true"):
            assert words in str(refusal.value)
    # Eviction is another way, and is refused by the budget.
    budget = json.loads(await space.kubectl("get", "pdb", "guarded-live", "-o", "json"))
    assert budget["status"]["disruptionsAllowed"] == 0
    assert budget["status"]["currentHealthy"] == 2
    await space.kubectl("annotate", "pod", second, "avatar.musetalk.io/drain=true")
    await all_served(load, SESSIONS)
    await waiting.until(
        lambda: space.pods("guarded"),
        lambda pods: second not in {pod["metadata"]["name"] for pod in pods},
        "the drained pod is replaced",
    )
    await waiting.until(lambda: live(space, "guarded"), lambda pods: pods == [], "no marks", 15)
    await space.kubectl("delete", "pod", first, "--wait=false", f"--kubeconfig={user}")


async def test_break_glass_lets_a_live_pod_be_deleted(space: Space) -> None:
    await space.apply("broken", replicas=1, placement={"gpuClasses": ["h100-80gb"]})
    await space.ready("broken")
    await space.known_to_gateway("broken", 1)
    load = await space.load("broken", 1, 20)
    (pod,) = await waiting.until(lambda: live(space, "broken"), bool, "the pod is marked")
    with pytest.raises(errors.CommandFailed, match="serves live sessions"):
        await space.kubectl("delete", "pod", pod, "--wait=false")
    await space.kubectl("annotate", "pod", pod, "avatar.musetalk.io/break-glass=true")
    await space.kubectl("delete", "pod", pod, "--grace-period=1", "--wait=false")
    output, _ = await load.communicate()
    assert json.loads(output)["done"] == 0


async def test_api_server_kill_is_not_noticed_by_sessions(space: Space) -> None:
    await sessions_survive_a_kill_of(space, components.API_SERVER)


async def test_etcd_kill_is_not_noticed_by_sessions(space: Space) -> None:
    await sessions_survive_a_kill_of(space, components.ETCD)


async def sessions_survive_a_kill_of(space: Space, component: str) -> None:
    load = await start(space, "steady")
    before = await uids(space, "steady")
    await space.cluster.restart_component(component, kill=True)
    await all_served(load, SESSIONS)
    await space.ready("steady", pods=2)
    assert await uids(space, "steady") == before


async def test_killed_operator_is_not_noticed_by_sessions(space: Space) -> None:
    load = await start(space, "calm")
    leader = await space.release.leader()
    running = processes_with("AVATAR_POD", leader)
    assert running
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    await led_by_another(space, leader)

    async def restarts() -> int:
        pods = await space.release.pods("operator")
        (pod,) = (pod for pod in pods if pod["metadata"]["name"] == leader)
        (status,) = pod["status"]["containerStatuses"]
        return int(status["restartCount"]) if status["ready"] else -1

    await all_served(load, SESSIONS)
    await waiting.until(restarts, lambda count: count >= 1, "the killed operator stands by", 60)


async def test_leader_change_is_not_noticed_by_sessions(space: Space) -> None:
    load = await start(space, "calm")
    leader = await space.release.leader()
    async with lease_log.followed(space.cluster) as lease:
        await space.cluster.kubectl("delete", "pod", leader, "-n", SYSTEM, "--wait=false")
        await led_by_another(space, leader)
        await lease.until_another_leads()
    assert [before.rpartition("_")[0] for before, _ in lease.handovers()] == [leader]
    await all_served(load, SESSIONS)
    await space.release.both_operators_ready()


async def led_by_another(space: Space, leader: str) -> None:
    """Wait for a new leader, who adds a pod and takes none away."""
    before = await uids(space, "calm")
    release = space.release
    await waiting.until(release.leader, lambda name: name not in ("", leader), "another leader", 60)
    await space.kubectl("scale", "avs/calm", "--replicas=3")
    await space.ready("calm", pods=3)
    assert before < await uids(space, "calm")


async def test_node_that_karpenter_disrupts_is_left_without_a_cut(space: Space) -> None:
    load = await start(space, "disrupted")
    before = await space.pods("disrupted")
    node = before[0]["spec"]["nodeName"]
    old = {pod["metadata"]["uid"] for pod in before if pod["spec"]["nodeName"] == node}
    taint = "karpenter.sh/disrupted"
    await space.cluster.kubectl("taint", "node", node, f"{taint}:NoSchedule")
    try:
        await waiting.until(
            lambda: uids(space, "disrupted"),
            lambda seen: len(seen) > len(before),
            "a pod on another node comes first",
        )
        await all_served(load, SESSIONS)
        await space.ready("disrupted", pods=2)
        pods = await space.pods("disrupted")
        assert not old & {pod["metadata"]["uid"] for pod in pods}
        assert node not in {pod["spec"]["nodeName"] for pod in pods}
        await waiting.until(
            lambda: space.pods("disrupted"),
            lambda found: (
                not any(
                    "karpenter.sh/do-not-disrupt" in pod["metadata"]["annotations"] for pod in found
                )
            ),
            "nobody talks any more: Karpenter may disrupt these nodes, too",
        )
    finally:
        await space.cluster.kubectl("taint", "node", node, f"{taint}-")
