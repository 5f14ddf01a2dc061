"""Pods on process nodes of a real control plane."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio

from localcluster import errors, paths
from localcluster.controlplane import processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

NODES = """
crashBackOff: {baseSeconds: 1, maxSeconds: 2}
images:
  tests/any: {paths: {/opt/avatar: examples}}
nodes:
  - {name: process-a, labels: {tests/node: process}}
  - {name: process-b, labels: {tests/node: process}}
"""
WEB = ["python3", "-m", "http.server", "--bind", "0.0.0.0", "8080"]
PID_AND_SLEEP = "echo pid $$$$; exec sleep 1000"  # `$$` is one dollar in a manifest
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """Two process nodes of our own, and a namespace."""

    cluster: ControlPlane
    state: Path
    namespace: str

    async def kubectl(self, *words: str | Path, stdin: str | None = None) -> str:
        return await self.cluster.kubectl("-n", self.namespace, *words, stdin=stdin)

    async def create(self, name: str, *containers: Json, **spec: Any) -> None:
        full = [{"name": f"c{i}", "image": "tests/any:1", **c} for i, c in enumerate(containers)]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "nodeSelector": {"tests/node": "process"},
                "terminationGracePeriodSeconds": 5,
                **spec,
                "containers": full,
            },
        }
        await self.kubectl("create", "-f", "-", stdin=json.dumps(body))

    async def pod(self, name: str) -> Json:
        return dict(json.loads(await self.kubectl("get", "pod", name, "-o", "json")))

    async def container(self, name: str) -> Json:
        statuses = (await self.pod(name))["status"].get("containerStatuses") or [{}]
        return dict(statuses[0])

    async def until_ready(self, name: str) -> Json:
        await self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=20s")
        return await self.pod(name)

    async def until_waiting(self, name: str, reason: str) -> str:
        async def message() -> str | None:
            state = (await self.container(name)).get("state", {}).get("waiting", {})
            return str(state.get("message", "")) if state.get("reason") == reason else None

        return await eventually(message, f"{name} waits for {reason}")

    async def until_phase(self, name: str, phase: str) -> Json:
        async def reached() -> Json | None:
            pod = await self.pod(name)
            return pod if pod["status"]["phase"] == phase else None

        return await eventually(reached, f"{name} is {phase}")

    async def until_logged(self, name: str, text: str, *options: str) -> str:
        async def logged() -> str | None:
            try:
                output = await self.kubectl("logs", name, *options)
            except errors.CommandFailed:
                return None
            return output if text in output else None

        return await eventually(logged, f"{name} logs {text!r}")

    async def logged_pid(self, name: str) -> int:
        return int((await self.until_logged(name, "\n")).split()[1])


def alive(pid: int) -> bool:
    try:
        return processes.identify(pid).is_alive()
    except ProcessLookupError:
        return False


async def eventually(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look until there is something; say what was waited for if it never comes."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (found := await look()) is not None:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within 20 s: {what}")


def node_command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "localcluster.node", *map(str, words)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(
    cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "nodes.yaml").write_text(NODES)
    site = Site(cluster, folder / "state", "node-test")
    await cluster.kubectl("create", "namespace", site.namespace)
    process = await asyncio.create_subprocess_exec(
        *node_command("--kubeconfig", cluster.kubeconfig, "--nodes", folder / "nodes.yaml"),
        *("--state", str(site.state), "--die-with-parent"),
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert line["ready"] is True
        assert line["nodes"] == ["process-a", "process-b"]
        yield site
        await cluster.kubectl("delete", "namespace", site.namespace, "--timeout=30s")
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await cluster.kubectl("delete", "nodes", "process-a", "process-b")


async def test_a_probed_pod_becomes_ready_under_its_own_address(site: Site) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    web = {
        "command": WEB,
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {**probe, "failureThreshold": 30},
        "readinessProbe": probe,
        "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    await asyncio.gather(site.create("web-a", web), site.create("web-b", web))
    pods = [await site.until_ready("web-a"), await site.until_ready("web-b")]
    addresses = {pod["status"]["podIP"] for pod in pods}
    assert len(addresses) == 2
    assert all(address.startswith("127.") for address in addresses)
    conditions = {c["type"]: c["status"] for c in pods[0]["status"]["conditions"]}
    assert set(conditions.values()) == {"True"}
    status = pods[0]["status"]["containerStatuses"][0]
    assert (status["started"], status["restartCount"]) == (True, 0)
    assert pods[0]["status"]["hostIP"] == pods[0]["status"]["hostIPs"][0]["ip"]
    described = await site.kubectl("describe", "pod", "web-a")
    for reason in ("Scheduled", "Pulled", "Created", "Started"):
        assert reason in described


async def test_a_status_at_rest_is_not_written(site: Site) -> None:
    await site.create("calm", {"command": ["sleep", "1000"]})
    before = await site.until_ready("calm")
    await site.create("later", {"command": ["sleep", "1000"]})
    await site.until_ready("later")
    assert (await site.pod("calm"))["metadata"]["resourceVersion"] == (
        before["metadata"]["resourceVersion"]
    )


async def test_kubectl_reads_and_follows_logs(site: Site) -> None:
    script = "for i in 1 2 3; do echo line $i; done; sleep 0.5; echo last"
    await site.create("talker", {"command": ["sh", "-c", script]}, restartPolicy="Never")
    await site.until_logged("talker", "line 3")
    assert await site.kubectl("logs", "talker", "-f") == "line 1\nline 2\nline 3\nlast\n"
    assert await site.kubectl("logs", "talker", "--tail=2") == "line 3\nlast\n"


async def test_a_deletion_signals_the_process_and_waits_for_it(site: Site, tmp_path: Path) -> None:
    script = "trap 'echo told > /out/end; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    await site.create(
        "polite",
        {
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "out", "mountPath": "/out"}],
            "lifecycle": {"preStop": {"exec": {"command": ["touch", "/out/stopping"]}}},
        },
        volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}],
    )
    await site.until_logged("polite", "up")
    await site.kubectl("delete", "pod", "polite", "--wait=true", "--timeout=4s")
    assert (tmp_path / "end").read_text() == "told\n"
    assert (tmp_path / "stopping").exists()


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(site: Site) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.02; done"
    await site.create("deaf", {"command": ["sh", "-c", script]}, terminationGracePeriodSeconds=1)
    await site.until_logged("deaf", "up")
    begin = time.monotonic()
    await site.kubectl("delete", "pod", "deaf", "--wait=true", "--timeout=10s")
    assert time.monotonic() - begin >= 1  # the grace was given


async def test_a_forced_deletion_leaves_no_process(site: Site) -> None:
    await site.create("forced", {"command": ["sh", "-c", PID_AND_SLEEP]})
    pid = await site.logged_pid("forced")
    await site.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")

    async def gone() -> bool | None:
        return None if alive(pid) else True

    await eventually(gone, "the process ended")


async def test_a_killed_process_is_restarted_in_place(site: Site) -> None:
    await site.create("victim", {"command": ["sh", "-c", PID_AND_SLEEP]})
    pid = await site.logged_pid("victim")
    before = await site.until_ready("victim")
    os.kill(pid, signal.SIGKILL)

    async def restarted() -> Json | None:
        status = await site.container("victim")
        return status if status["restartCount"] == 1 and status["ready"] else None

    status = await eventually(restarted, "one restart")
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "Error")
    after = await site.pod("victim")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    previous = await site.kubectl("logs", "victim", "--previous")
    assert previous == f"pid {pid}\n"


async def test_a_crashing_container_waits_in_back_off(site: Site) -> None:
    await site.create("crash", {"command": ["sh", "-c", "exit 3"]})
    message = await site.until_waiting("crash", "CrashLoopBackOff")
    assert message.startswith("back-off 1s restarting failed container=c0")
    status = await site.container("crash")
    assert status["restartCount"] >= 1


async def test_a_failing_liveness_probe_restarts_the_container(site: Site) -> None:
    script = "trap 'exit 0' TERM; touch alive; echo up; while :; do sleep 0.02; done"
    probe = {"exec": {"command": ["test", "-e", "alive"]}, "periodSeconds": 1}
    await site.create(
        "sick",
        {"command": ["sh", "-c", script], "livenessProbe": {**probe, "failureThreshold": 1}},
    )
    pod = await site.until_ready("sick")
    home = site.state / "pods" / pod["metadata"]["uid"] / "home"
    await site.until_logged("sick", "up")
    (home / "alive").unlink()

    async def restarted() -> Json | None:
        status = await site.container("sick")
        return status if status["restartCount"] == 1 else None

    status = await eventually(restarted, "one restart")
    assert "failed liveness probe" in status["lastState"]["terminated"]["message"]
    assert "Unhealthy" in await site.kubectl("describe", "pod", "sick")


async def test_a_missing_secret_is_waited_for(site: Site) -> None:
    ref = {"secretKeyRef": {"name": "late", "key": "token"}}
    env = [{"name": "TOKEN", "valueFrom": ref}]
    await site.create("patient", {"command": ["sh", "-c", "echo $TOKEN; sleep 1000"], "env": env})
    message = await site.until_waiting("patient", "CreateContainerConfigError")
    assert message == 'secret "late" not found'
    await site.kubectl("create", "secret", "generic", "late", "--from-literal=token=here")
    assert await site.until_logged("patient", "here") == "here\n"
    await site.until_ready("patient")


async def test_an_unknown_image_does_not_run(site: Site) -> None:
    await site.create("stranger", {"image": "nobody/knows:1", "command": ["true"]})
    await site.until_waiting("stranger", "ImagePullBackOff")
    assert (await site.pod("stranger"))["status"]["phase"] == "Pending"
    assert "ErrImagePull" in await site.kubectl("describe", "pod", "stranger")


async def test_an_unknown_command_is_named(site: Site) -> None:
    await site.create("typo", {"command": ["no-such-command"]}, restartPolicy="Never")
    pod = await site.until_phase("typo", "Failed")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-command" in ended["message"]


async def test_init_containers_run_in_order_before_the_other_containers(site: Site) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    inits = [
        {
            "name": name,
            "image": "tests/any:1",
            "command": ["sh", "-c", f"sleep {wait}; echo {name} >> /shared/order"],
            "volumeMounts": mounts,
        }
        for name, wait in (("first", 0.2), ("second", 0))
    ]
    await site.create(
        "ordered",
        {"command": ["cat", "/shared/order"], "volumeMounts": mounts},
        initContainers=inits,
        volumes=[{"name": "shared", "emptyDir": {}}],
        restartPolicy="Never",
    )
    pod = await site.until_phase("ordered", "Succeeded")
    assert await site.kubectl("logs", "ordered", "-c", "c0") == "first\nsecond\n"
    reasons = [s["state"]["terminated"]["reason"] for s in pod["status"]["initContainerStatuses"]]
    assert reasons == ["Completed", "Completed"]


async def test_a_failed_init_container_fails_a_pod_that_never_restarts(site: Site) -> None:
    init = {"name": "bad", "image": "tests/any:1", "command": ["sh", "-c", "exit 2"]}
    await site.create("spoilt", {"command": ["true"]}, initContainers=[init], restartPolicy="Never")
    pod = await site.until_phase("spoilt", "Failed")
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]


async def test_a_pod_acts_as_its_service_account(site: Site) -> None:
    """It can do what its account may, and nothing more."""
    script = (
        "import os, kubernetes as k; k.config.load_kube_config(os.environ['KUBECONFIG']);"
        "api = k.client.AuthenticationV1Api();"
        "review = api.create_self_subject_review(k.client.V1SelfSubjectReview());"
        "print(review.status.user_info.username)"
    )
    await site.create("who", {"command": ["python", "-c", script]}, restartPolicy="Never")
    await site.until_phase("who", "Succeeded")
    name = (await site.kubectl("logs", "who")).strip()
    assert name == f"system:serviceaccount:{site.namespace}:default"


async def test_configmaps_and_the_downward_api_are_files(site: Site) -> None:
    await site.kubectl("create", "configmap", "settings", "--from-literal=mode=fast")
    sources = [
        {"configMap": {"name": "settings", "items": [{"key": "mode", "path": "deep/mode"}]}},
        {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    await site.create(
        "reader",
        {
            "command": ["sh", "-c", "cat /etc/settings/deep/mode; echo; cat /etc/settings/n"],
            "volumeMounts": [{"name": "all", "mountPath": "/etc/settings"}],
        },
        volumes=[{"name": "all", "projected": {"sources": sources}}],
        restartPolicy="Never",
    )
    await site.until_phase("reader", "Succeeded")
    assert await site.kubectl("logs", "reader") == "fast\nreader"


async def test_a_node_can_be_switched_off_and_on(site: Site) -> None:
    await site.create("lost", {"command": ["sh", "-c", PID_AND_SLEEP]}, nodeName="process-b")
    pid = await site.logged_pid("lost")
    await site.until_ready("lost")
    await control(site, "kill-node", "process-b")
    assert not alive(pid)
    # Nobody tells the API server: it has to notice by itself.
    assert (await site.container("lost"))["ready"] is True
    await control(site, "revive-node", "process-b")

    async def again() -> bool | None:
        return True if (await site.container("lost"))["restartCount"] == 1 else None

    await eventually(again, "the pod runs again")
    await site.until_ready("lost")


async def control(site: Site, do: str, node: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *node_command("ctl", "--state", site.state, do, node),
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
    )
    assert await process.wait() == 0


async def test_only_a_gpu_pod_gets_the_device_of_its_node(site: Site) -> None:
    """On the default nodes: scheduled by the resource, past the taint that it tolerates."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "gpu", "namespace": site.namespace},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [
                {
                    "name": name,
                    "image": "avatar-musetalk/runtime:0.1.0",
                    "command": ["sh", "-c", "echo device=$AVATAR_DEVICE"],
                    "resources": {"limits": limits},
                }
                for name, limits in (("with", {"nvidia.com/gpu": "1"}), ("without", {}))
            ],
        },
    }
    await site.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    done = await site.until_phase("gpu", "Succeeded")
    assert done["spec"]["nodeName"] == "h100-80gb-a"
    assert await site.kubectl("logs", "gpu", "-c", "with") == "device=simulated:h100-80gb\n"
    assert await site.kubectl("logs", "gpu", "-c", "without") == "device=\n"
