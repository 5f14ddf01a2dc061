"""What a kubelet makes of the pods: users, file systems, probes, logs, limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import waiting
from localcluster.kubelet import installed as installations
from localcluster.kubelet.installed import OPERATOR
from localcluster.release import SYSTEM

if TYPE_CHECKING:
    from localcluster.kubelet.installed import Installed

pytestmark = [pytest.mark.images, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

NOBODY: Final = "65532"
INSPECT: Final = """
import os
with open("/proc/self/status") as file:
    status = dict(line.rstrip().split(":\\t", 1) for line in file if ":\\t" in line)
print(os.getuid(), os.getgid(), os.access("/opt", os.W_OK), os.access("/tmp", os.W_OK),
      int(status["CapEff"], 16), status["NoNewPrivs"], status["Seccomp"],
      os.path.exists("/var/run/secrets/kubernetes.io"))
"""
PEAK: Final = """
import pathlib
root = pathlib.Path("/sys/fs/cgroup")
v1 = root / "memory" / "memory.max_usage_in_bytes"
print((v1 if v1.exists() else root / "memory.peak").read_text())
"""
SERVICES: Final = 60
MIB: Final = 1 << 20


async def every_pod(installed: Installed) -> list[dict[str, Any]]:
    """Return the pods that run. A second one of the service may find no free processor."""
    system = await installed.fleet.objects("pods", "-n", SYSTEM)
    pods = [*system, *await installed.fleet.objects("pods")]
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


def ready_since(pod: dict[str, Any]) -> str:
    (ready,) = [each for each in pod["status"]["conditions"] if each["type"] == "Ready"]
    assert ready["status"] == "True"
    return str(ready["lastTransitionTime"])


async def execute(installed: Installed, pod: dict[str, Any], program: str) -> str:
    """Run a Python program in the container of a pod, with `kubectl exec`."""
    meta = pod["metadata"]
    words = ("exec", "-n", meta["namespace"], meta["name"], "--", "python", "-c", program)
    return (await installed.kubectl(*words)).strip()


async def test_pods_have_no_rights_on_the_node(installed: Installed) -> None:
    pods = await every_pod(installed)
    assert len(pods) >= 6  # two operators, two gateways, a runtime on each kind of device
    for pod in pods:
        seen = (await execute(installed, pod, INSPECT)).split()
        name = pod["metadata"]["name"]
        talks_to_api = pod["metadata"]["namespace"] == SYSTEM
        no_new_privileges, filter_mode = "1", "2"
        assert seen == [
            NOBODY, NOBODY, "False", "True", "0", no_new_privileges, filter_mode,
            str(talks_to_api),
        ], name  # fmt: skip


async def test_probes_pass_and_nothing_restarts(installed: Installed) -> None:
    pods = await every_pod(installed)
    assert set(installations.restarts(pods).values()) == {0}
    warnings = ("-A", "--field-selector=type=Warning,involvedObject.kind=Pod")
    events = await installed.fleet.objects("events", *warnings)
    since = {pod["metadata"]["name"]: ready_since(pod) for pod in pods}
    # Until a pod is ready for the first time, its startup and readiness probes may fail.
    unhealthy = [
        (event["involvedObject"]["name"], event["message"])
        for event in events
        if event["reason"] in ("Unhealthy", "BackOff", "Failed")
        and not (
            event["message"].startswith(("Startup probe", "Readiness probe"))
            and event["lastTimestamp"] <= since.get(event["involvedObject"]["name"], "")
        )
    ]
    assert unhealthy == []


async def test_logs_are_json_lines(installed: Installed) -> None:
    for pod in await every_pod(installed):
        meta = pod["metadata"]
        lines = await installed.kubectl("logs", "-n", meta["namespace"], meta["name"])
        assert lines, meta["name"]
        for line in lines.splitlines():
            assert isinstance(json.loads(line), dict), (meta["name"], line)


async def test_operator_stays_within_its_limit_under_load(installed: Installed) -> None:
    (limit,) = {
        pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
        for pod in await installed.pods("operator")
    }
    assert limit == "512Mi"
    before = installations.restarts(await installed.pods("operator"))
    names = [f"idle-{number}" for number in range(SERVICES)]
    manifest = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "avatar.musetalk.io/v1alpha1",
                "kind": "AvatarService",
                "metadata": {"name": name, "labels": {"load": "true"}},
                "spec": {"replicas": 0},
            }
            for name in names
        ],
    }
    await installed.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    try:
        await waiting.until(
            lambda: installed.fleet.objects("avs", "-l", "load=true"),
            lambda found: all(s.get("status", {}).get("observedGeneration") for s in found),
            f"{SERVICES} services have a status",
            120,
        )
        for pod in await installed.pods("operator"):
            peak = int(await execute(installed, pod, PEAK))
            assert 20 * MIB < peak < 0.7 * 512 * MIB, (pod["metadata"]["name"], peak / MIB)
    finally:
        await installed.kubectl("delete", "avs", "-l", "load=true", "--timeout=120s")
    assert installations.restarts(await installed.pods("operator")) == before


async def test_operator_is_rolled_out(installed: Installed) -> None:
    deployment = f"deployment/{OPERATOR}"
    before = {pod["metadata"]["name"] for pod in await installed.pods("operator")}
    await installed.kubectl("rollout", "restart", deployment, "-n", SYSTEM)
    await installed.kubectl("rollout", "status", deployment, "-n", SYSTEM, "--timeout=120s")
    after = {pod["metadata"]["name"] for pod in await installed.pods("operator")}
    assert len(after) == 2
    assert not before & after
    await installed.ready("concierge")
