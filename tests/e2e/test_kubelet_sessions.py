"""Live sessions on a real node: rollouts, a drain, and a gateway that the kernel kills."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import waiting
from localcluster.kubelet.installed import GATEWAY, SIMULATED
from localcluster.release import SYSTEM, all_served

if TYPE_CHECKING:
    from localcluster.kubelet.installed import Installed

pytestmark = [pytest.mark.images, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SESSIONS: Final = 6
TALK_S: Final = 25.0
OOM_TALK_S: Final = 60.0
"""Long enough for two gateways that are killed and start again."""
# Many small processes use up the memory of the cgroup, so that the gateway is the largest in it.
FILL: Final = """
import os, time
for _ in range(64):
    if os.fork() == 0:
        held = bytearray(24 << 20)
        for page in range(0, len(held), 4096):
            held[page] = 1
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""


async def test_gateway_is_rolled_out_around_live_sessions(installed: Installed) -> None:
    load = await installed.talk(SIMULATED, SESSIONS, TALK_S)
    before = {pod["metadata"]["name"] for pod in await installed.pods("gateway")}
    deployment = f"deployment/{GATEWAY}"
    await installed.kubectl("rollout", "restart", deployment, "-n", SYSTEM)
    await installed.kubectl("rollout", "status", deployment, "-n", SYSTEM, "--timeout=120s")
    after = {pod["metadata"]["name"] for pod in await installed.pods("gateway")}
    assert len(after) == 2
    assert not before & after
    await all_served(load, SESSIONS)


async def test_node_drain_ends_no_session(installed: Installed) -> None:
    load = await installed.talk(SIMULATED, SESSIONS, TALK_S)
    (pod,) = await installed.runtimes(SIMULATED)
    node = pod["spec"]["nodeName"]
    drain = asyncio.create_task(
        installed.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"
        )
    )
    try:
        await all_served(load, SESSIONS)
        report = await drain
    finally:
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await installed.kubectl("uncordon", node)
    assert f"node/{node} drained" in report
    await installed.ready(SIMULATED)  # on the same node, the only one of its class
    (later,) = await installed.runtimes(SIMULATED)
    assert later["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_sessions_survive_the_out_of_memory_kill_of_a_gateway(installed: Installed) -> None:
    """Both gateways are killed, one after the other, so that each session loses its connection."""
    load = await installed.talk(SIMULATED, SESSIONS, OOM_TALK_S, "--resume")
    for pod in await installed.pods("gateway"):
        await run_out_of_memory(installed, pod["metadata"]["name"])
    assert load.returncode is None, "the sessions were over before the gateways were killed"
    summary = await all_served(load, SESSIONS)
    assert summary["resumed"] >= SESSIONS


async def run_out_of_memory(installed: Installed, name: str) -> None:
    """Let the kernel kill a gateway, and wait until it serves again."""
    filling = asyncio.create_task(
        installed.kubectl("exec", "-n", SYSTEM, name, "--", "python", "-c", FILL)
    )
    try:
        await waiting.until(
            lambda: last_end(installed, name), bool, f"{name} is killed and starts again", 60
        )
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
    assert (await last_end(installed, name))["reason"] == "OOMKilled"
    await installed.kubectl(
        "wait", f"pod/{name}", "-n", SYSTEM, "--for=condition=Ready", "--timeout=60s"
    )


async def last_end(installed: Installed, name: str) -> dict[str, Any]:
    """Return how the container of a gateway ended last; empty if it has not ended."""
    for pod in await installed.pods("gateway"):
        if pod["metadata"]["name"] == name:
            for status in pod["status"].get("containerStatuses", ()):
                return dict(status["lastState"].get("terminated", {}))
    return {}
