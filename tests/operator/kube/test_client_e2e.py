"""Tests of the operator on a real API server, with its own rights and fake nodes and pods."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from localcluster import paths
from localcluster.controlplane import audit, certificates
from localcluster.controlplane.cluster import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

SYSTEM = "avatar-system"
ACCOUNT = "avatar-avatar-operator-operator"
NODE = "gpu-node"
DEADLINE_S = 60.0  # the garbage collector looks for new kinds every 30 s
Result = TypeVar("Result")


class Runtime:
    """The fake process of a runtime pod: its admin port, with any number of sessions."""

    def __init__(self, pod: str, address: str) -> None:
        self.pod = pod
        self.address = address
        self.sessions = 0
        self.draining = False
        self._changed = asyncio.Event()

    def set_sessions(self, sessions: int) -> None:
        self.sessions = sessions
        self._changed.set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/control/v1/state", self._state)
        application.router.add_post("/control/v1/drain", self._drain)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.address, 9090).start()
            yield
        finally:
            await runner.cleanup()

    def _line(self) -> bytes:
        document = {
            "pod": self.pod,
            "sessions": self.sessions,
            "capacity": 2,
            "free": max(0, 2 - self.sessions),
            "draining": self.draining,
            "ready": True,
        }
        return json.dumps(document).encode() + b"\n"

    async def _state(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"].startswith("Bearer ")
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            self._changed.clear()
            try:
                await response.write(self._line())
            except ConnectionResetError:
                return response  # the operator was killed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 0.5)

    async def _drain(self, request: web.Request) -> web.Response:
        self.draining = (await request.json())["draining"]
        self._changed.set()
        return web.Response()


class Api:
    """A client with administrator rights."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str) -> Any:
        answer = await self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> None:
        (await self._client.post(path, json=body)).raise_for_status()

    async def merge(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        answer = await self._client.patch(path, content=json.dumps(body), headers=headers)
        answer.raise_for_status()

    async def delete(self, path: str, body: dict[str, Any] | None = None) -> None:
        answer = await self._client.request("DELETE", path, json=body)
        if answer.status_code != httpx.codes.NOT_FOUND:
            answer.raise_for_status()


class Node:
    """A fake kubelet: starts every bound pod immediately, and stops it when it is deleted."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._stack = contextlib.AsyncExitStack()
        self._started: set[str] = set()
        self._reported: set[str] = set()  # UIDs of pods with a status of a running pod
        self.runtimes: dict[str, Runtime] = {}

    async def run(self) -> None:
        async with self._stack:
            while True:
                # A pod may be deleted between the list and the status write.
                with contextlib.suppress(httpx.HTTPError):
                    for pod in (await self._api.get(self._pods))["items"]:
                        await self._tend(pod)
                await asyncio.sleep(0.1)

    async def _tend(self, pod: dict[str, Any]) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            runtime = self.runtimes.get(name)
            if runtime is not None:
                runtime.draining = True  # like its preStop hook
            if runtime is None or runtime.sessions == 0:
                await self._api.delete(f"{self._pods}/{name}", {"gracePeriodSeconds": 0})
            return
        if not pod["spec"].get("nodeName") or uid in self._reported:
            return
        if uid not in self._started:
            self._started.add(uid)
            self.runtimes[name] = Runtime(name, f"127.0.77.{len(self._started)}")
            await self._stack.enter_async_context(self.runtimes[name].serving())
        runtime = self.runtimes[name]
        container = {
            "name": "runtime",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            "ready": True,
            "restartCount": 0,
            "image": "",
            "imageID": "",
        }
        conditions = [{"type": "Ready", "status": "True"}]
        status = {
            "phase": "Running",
            "podIP": runtime.address,
            "podIPs": [{"ip": runtime.address}],
            "conditions": conditions,
            "containerStatuses": [container],
        }
        await self._api.merge(f"{self._pods}/{name}/status", {"status": status})
        self._reported.add(uid)


@dataclasses.dataclass
class World:
    """A cluster with the roles of the chart, one node with four GPUs, and one namespace."""

    cluster: ControlPlane
    api: Api
    node: Node
    namespace: str
    kubeconfig: str

    def service_path(self, name: str) -> str:
        group = "/apis/avatar.musetalk.io/v1alpha1"
        return f"{group}/namespaces/{self.namespace}/avatarservices/{name}"

    async def apply(self, name: str, replicas: int, **spec: object) -> None:
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"replicas": replicas, **spec},
        }
        await self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    async def status(self, name: str) -> Any:
        return (await self.api.get(self.service_path(name))).get("status", {})

    async def until_ready(self, name: str, pods: int) -> dict[str, Any]:
        async def is_ready() -> dict[str, Any] | None:
            status = await self.status(name)
            ready = (status.get("readyReplicas"), status.get("replicas")) == (pods, pods)
            return status if ready and status["desiredReplicas"] == pods else None

        return await until(is_ready, f"{name} has {pods} ready pods")

    async def pods(self) -> dict[str, dict[str, Any]]:
        found = await self.api.get(f"/api/v1/namespaces/{self.namespace}/pods")
        return {pod["metadata"]["name"]: pod for pod in found["items"]}

    @contextlib.asynccontextmanager
    async def operator(self, **settings: str) -> AsyncIterator[Operator]:
        environment = {
            **os.environ,
            "KUBECONFIG": self.kubeconfig,
            "AVATAR_NAMESPACE": SYSTEM,
            "AVATAR_CONTROL_SECRET": "avatar-avatar-operator-control",
            "AVATAR_LEASE": "avatar-avatar-operator-operator",
            "AVATAR_RUNTIME_IMAGE": "avatar-musetalk/runtime",
            "AVATAR_LOG_FORMAT": "text",
            "AVATAR_HEALTH_LISTEN": "127.0.78.1:8080",
            "AVATAR_METRICS_LISTEN": "127.0.78.1:9090",
            "AVATAR_METRICS_OPEN": "true",
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "avatar_operator", "run"), env=environment
        )
        try:
            yield Operator(process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


class Operator:
    """The process of an operator."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [row for row in status.splitlines() if row.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    async def reconciles(self) -> float:
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get("http://127.0.78.1:9090/metrics")).text
        line = 'avatar_operator_reconcile_duration_seconds_count{outcome="success"} '
        return sum(float(row.removeprefix(line)) for row in text.splitlines() if line in row)

    async def until_ready(self) -> None:
        async def answers() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    return (await client.get("http://127.0.78.1:8080/readyz")).is_success
            except httpx.TransportError:
                return False

        await until(answers, "the operator is ready")


async def until(holds: Callable[[], Awaitable[Result | None]], what: str) -> Result:
    last: Result | None = None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (last := await holds()):  # noqa: ASYNC110 - the change happens in other processes
                await asyncio.sleep(0.05)
            return last
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE_S:.0f} s: {what}; last seen: {last}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("cluster") / "state") as cluster:
        chart = paths.REPOSITORY / "charts" / "avatar-operator"
        await cluster.helm("install", "avatar", chart, "-n", SYSTEM, "--create-namespace")
        await cluster.kubectl("create", "namespace", "acme")
        pki = certificates.Pki(cluster.layout.pki)
        context = ssl.create_default_context(cafile=pki.ca)
        context.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
        kubeconfig = await cluster.service_account_kubeconfig(SYSTEM, ACCOUNT)
        async with httpx.AsyncClient(
            base_url=cluster.server, verify=context, trust_env=False
        ) as client:
            api = Api(client)
            await _register_node(api)
            node = Node(api, "acme")
            async with asyncio.TaskGroup() as tasks:
                kubelet = tasks.create_task(node.run())
                beats = tasks.create_task(_beat(api))
                yield World(cluster, api, node, "acme", str(kubeconfig))
                kubelet.cancel()
                beats.cancel()


async def _register_node(api: Api) -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090",
        "nvidia.com/gpu.memory": "24564",
    }
    taints = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
    body = {"metadata": {"name": NODE, "labels": labels}, "spec": {"taints": taints}}
    await api.post("/api/v1/nodes", body)
    room = {"nvidia.com/gpu": "4", "cpu": "64", "memory": "256Gi", "pods": "110"}
    await _report_node(api, {"capacity": room, "allocatable": room})


async def _report_node(api: Api, status: dict[str, Any]) -> None:
    now = "2026-01-01T00:00:00Z"
    beat = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "reason": "Up", "lastTransitionTime": now}
    ready["lastHeartbeatTime"] = beat
    body = {"status": {**status, "conditions": [ready]}}
    await api.merge(f"/api/v1/nodes/{NODE}/status", body)


async def _beat(api: Api) -> None:
    """Keep the node ready: a node without a heartbeat for 50 s is lost."""
    while True:
        with contextlib.suppress(httpx.HTTPError):
            await _report_node(api, {})
        await asyncio.sleep(10)


async def test_a_service_gets_a_ready_pod_and_then_nothing_is_written(world: World) -> None:
    async with world.operator(AVATAR_RESYNC_S="1") as operator:
        await world.apply("quiet", 1)
        status = await world.until_ready("quiet", 1)
        (pod,) = (await world.pods()).values()
        assert pod["spec"]["nodeName"] == NODE
        assert pod["metadata"]["annotations"]["avatar.musetalk.io/batch-size"] == "8"
        assert (status["state"], status["gpu"], status["batch"]) == ("Serving", "rtx-4090", "8")

        async def has_counts() -> bool:
            return bool((await world.status("quiet"))["freeSessions"] == 2)

        await until(has_counts, "the pod's state is in the status")
        # Several resyncs trigger every service; none of them may write.
        before = await world.api.get(world.service_path("quiet"))
        user = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
        writes = audit.read(world.cluster.audit_log, user)
        start = await operator.reconciles()

        async def has_planned_again() -> bool:
            return await operator.reconciles() >= start + 4

        await until(has_planned_again, "four more rounds")
        assert operator.resident_mib() < 120
        after = await world.api.get(world.service_path("quiet"))
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        assert writes
        assert {write.code // 100 for write in writes} == {2}
        assert audit.read(world.cluster.audit_log, user) == writes
    await world.api.delete(world.service_path("quiet"))
    await until(lambda: _has_no_pods(world), "the pods went with their service")


async def test_a_scale_down_waits_for_the_sessions_and_survives_a_killed_operator(
    world: World,
) -> None:
    async with world.operator() as operator:
        await world.apply("calm", 2)
        await world.until_ready("calm", 2)
        first, second = (world.node.runtimes[name] for name in await world.pods())
        first.set_sessions(1)
        second.set_sessions(2)

        async def counted() -> bool:
            return bool((await world.status("calm"))["sessions"] == 3)

        await until(counted, "the sessions are in the status")
        await world.apply("calm", 1)

        async def drains() -> bool:
            return first.draining

        await until(drains, "the pod with the fewest sessions drains")
        assert not second.draining
        operator.process.kill()
        await operator.process.wait()
    assert set(await world.pods()) == {first.pod, second.pod}
    async with world.operator() as operator:
        await operator.until_ready()

        async def knows() -> bool:
            status = await world.status("calm")
            conditions = {each["type"]: each["status"] for each in status["conditions"]}
            return bool(conditions["Draining"] == "True" and status["sessions"] == 3)

        await until(knows, "the new operator sees the draining pod")
        assert set(await world.pods()) == {first.pod, second.pod}
        first.set_sessions(0)

        async def is_alone() -> bool:
            return set(await world.pods()) == {second.pod}

        await until(is_alone, "the emptied pod is deleted")
        assert second.sessions == 2
        second.set_sessions(0)
        await world.api.delete(world.service_path("calm"))
        await until(lambda: _has_no_pods(world), "the pods went with their service")


async def test_a_changed_spec_creates_a_new_pod_before_the_old_one_drains(world: World) -> None:
    async with world.operator():
        await world.apply("rolling", 1)
        await world.until_ready("rolling", 1)
        (old,) = await world.pods()
        world.node.runtimes[old].set_sessions(1)
        await world.apply("rolling", 1, objective="throughput")

        async def both_run() -> bool:
            return len(await world.pods()) == 2 and world.node.runtimes[old].draining

        await until(both_run, "the new pod is there and the old one drains")
        (new,) = set(await world.pods()) - {old}
        assert not world.node.runtimes[new].draining
        world.node.runtimes[old].set_sessions(0)

        async def is_alone() -> bool:
            return set(await world.pods()) == {new}

        await until(is_alone, "the old pod is deleted once it is empty")
        await world.api.delete(world.service_path("rolling"))
        await until(lambda: _has_no_pods(world), "the pods went with their service")


async def test_a_deleted_pod_is_replaced_and_missing_gpus_are_reported(world: World) -> None:
    async with world.operator():
        await world.apply("many", 5)

        async def is_short() -> str | None:
            status = await world.status("many")
            conditions = {each["type"]: each for each in status.get("conditions", [])}
            ready = status.get("readyReplicas") == 4
            return str(conditions["GPUAvailable"]["message"]) if ready else None

        message = await until(is_short, "four of five pods are ready")
        assert "no free GPU" in message
        assert "rtx-4090 0 free of 4" in message
        victim = next(iter(await world.pods()))
        uid = (await world.pods())[victim]["metadata"]["uid"]
        await world.api.delete(f"/api/v1/namespaces/acme/pods/{victim}")

        async def is_replaced() -> bool:
            pods = (await world.pods()).values()
            running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
            return len(running) == 4 and uid not in {pod["metadata"]["uid"] for pod in pods}

        await until(is_replaced, "the deleted pod is replaced")
        await world.api.delete(world.service_path("many"))
        await until(lambda: _has_no_pods(world), "the pods went with their service")


async def _has_no_pods(world: World) -> bool:
    return not await world.pods()
