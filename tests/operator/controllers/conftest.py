"""The controllers on a fake API server that can fail on request."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from avatar_operator import settings
from avatar_operator.controllers.manager import Manager
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.text import rfc3339
from avatar_operator.kube import informers
from avatar_operator.kube.client import KubernetesClient
from avatar_operator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.operator.conftest import Body, Make

    from avatar_operator.fence import Fence

MASTER = "a-master-key-of-the-operator"
GROUP = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE = f"{GROUP}/namespaces/acme/avatarservices/concierge"
STATUS = f"{SERVICE}/status"
PDB = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/concierge-live"
INSTALLATION = "system/avatar-operator"
JOBS = "/apis/batch/v1/jobs"
PDBS = "/apis/policy/v1/poddisruptionbudgets"
PDBS_OF_TENANT = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets"
SECRETS = "/api/v1/namespaces/acme/secrets"
PODS = "/api/v1/namespaces/acme/pods"


def _name(body: Body) -> str:
    return str(body["metadata"]["name"])


class ApiServer:
    """Stores objects, counts versions, and responds like the real API server."""

    def __init__(self, make: Make) -> None:
        self.version = 100
        self.services: list[Body] = []
        self.profiles = [make.profile_body()]
        self.nodes = [make.node_body()]
        self.pods: list[Body] = []
        self.pdbs: list[Body] = []
        self.avatars: list[Body] = []
        self.tenants: list[Body] = []
        self.jobs: list[Body] = []
        self.secrets: dict[str, Body] = {}  # by path
        self.leases: dict[str, Body] = {}  # by path
        self.strangers: list[Body] = []  # pods that do not belong to the operator
        self.events: list[Body] = []
        self.cluster_events: list[Body] = []
        self.others: dict[str, Body] = {}  # objects of other kinds, by path
        self.writes: list[tuple[str, str]] = []
        self.own_writes: list[tuple[str, str]] = []  # in the operator's namespace
        self.faults: dict[tuple[str, str], tuple[int, str]] = {}
        self.requests: list[str] = []
        self.changed = asyncio.Event()
        self.watches: dict[str, asyncio.Queue[Body]] = {}
        self.watched_from: list[tuple[str, str]] = []

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Send the events in the queue of the path; an empty event ends the watch."""
        self.watched_from.append((request.path, request.query["resourceVersion"]))
        events = self.watches[request.path] = asyncio.Queue()
        response = web.StreamResponse()
        await response.prepare(request)
        self.changed.set()
        while event := await events.get():
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def send_event(self, path: str, event_type: str, body: Body) -> None:
        """Send an event to the watch of a path."""
        self.watches[path].put_nowait({"type": event_type, "object": body})

    def end_watches(self) -> None:
        for events in self.watches.values():
            events.put_nowait({})

    def stamp(self, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.changed.set()
        return body

    async def handle(self, request: web.Request) -> web.StreamResponse:
        method, path = request.method, request.path
        if "watch" in request.query:
            return await self.watch(request)
        self.requests.append(path)
        self.changed.set()
        if method != "GET" and "dryRun" not in request.query:
            own = path.startswith("/api/v1/namespaces/system/")
            (self.own_writes if own else self.writes).append((method, path))
        if (method, path) in self.faults:
            status, message = self.faults[method, path]
            return web.json_response({"message": message}, status=status)
        if "fieldSelector" in request.query:
            return self.respond_with_one(path, request.query["fieldSelector"].partition("=")[2])
        body = await request.json() if request.can_read_body else {}
        return self.respond(method, path, body)

    def respond_with_one(self, path: str, name: str) -> web.Response:
        stored = self.pdbs if path == PDBS_OF_TENANT else [*self.pods, *self.strangers]
        found = [each for each in stored if each["metadata"]["name"] == name]
        return web.json_response({"items": found})

    def respond(self, method: str, path: str, body: Body) -> web.Response:
        lists = {
            "/api/v1/nodes": self.nodes,
            "/api/v1/pods": self.pods,
            f"{GROUP}/gpuprofiles": self.profiles,
            f"{GROUP}/avatarservices": self.services,
            f"{GROUP}/avatars": self.avatars,
            f"{GROUP}/avatartenants": self.tenants,
            JOBS: self.jobs,
            PDBS: self.pdbs,
        }
        match method, path:
            case "GET", _ if path in lists:
                metadata = {"resourceVersion": str(self.version)}
                return web.json_response({"items": lists[path], "metadata": metadata})
            case "GET", "/api/v1/namespaces/system/secrets/control":
                return web.json_response(
                    {"data": {"master": base64.b64encode(MASTER.encode()).decode()}}
                )
            case "GET", _ if path == SERVICE and self.services:
                return web.json_response(self.services[0])
            case "GET", _ if path in self.leases:
                return web.json_response(self.leases[path])
            case "GET", _ if path in self.secrets:
                return web.json_response(self.secrets[path])
            case "GET", _ if path in self.others:
                return web.json_response(self.others[path])
            case "GET", _:
                return web.json_response({"message": "not found"}, status=404)
            case "POST", "/apis/batch/v1/namespaces/acme/jobs":
                body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
                body["metadata"]["creationTimestamp"] = rfc3339(time.time())
                self.jobs.append(self.stamp(body))
            case "DELETE", _ if "/jobs/" in path:
                name = path.rpartition("/")[2]
                self.jobs[:] = [job for job in self.jobs if _name(job) != name]
                return web.json_response({"kind": "Status"})
            case "PATCH", _ if path.startswith(f"{GROUP}/namespaces/acme/avatars/"):
                return self.patch_avatar(path, body)
            case "POST", "/api/v1/namespaces/acme/events":
                self.events.append(body)
            case "POST", "/api/v1/namespaces/default/events":  # of objects without a namespace
                self.cluster_events.append(body)
            case "POST", _ if self.has(path, body["metadata"]["name"]):
                return web.json_response({"message": "already exists"}, status=409)
            case "POST", _ if path == SECRETS:
                self.secrets[f"{SECRETS}/{body['metadata']['name']}"] = self.stamp(body)
            case "POST", _ if path.endswith("/secrets"):
                self.secrets[f"{path}/{body['metadata']['name']}"] = body
            case "POST", _ if path == PDBS_OF_TENANT:
                body["metadata"]["uid"] = "uid-pdb"
                self.pdbs.append(self.stamp(body))
            case "POST", _ if not path.endswith("/pods"):
                body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
                self.others[f"{path}/{body['metadata']['name']}"] = self.stamp(body)
            case "POST", _:
                body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
                self.pods.append(self.stamp(body))
            case "PATCH", _ if "/secrets/" in path:
                return self.patch_secret(path, body)
            case "PATCH", _ if path == STATUS:
                (service,) = self.services
                service["status"] = body["status"]
                return web.json_response(self.stamp(service))
            case "PATCH", _ if path.startswith(f"{GROUP}/avatartenants/"):
                (tenant,) = [each for each in self.tenants if _name(each) == _name(body)]
                if tenant["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
                    return web.json_response({"message": "changed"}, status=409)
                tenant["status"] = body["status"]
                return web.json_response(self.stamp(tenant))
            case "PATCH", _ if path == PDB:
                self.pdbs[:] = [self.stamp(body)]
            case "DELETE", _:
                (pod,) = [pod for pod in self.pods if path.endswith(pod["metadata"]["name"])]
                self.pods.remove(pod)
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                return web.json_response(self.stamp({**pod, "kind": "Pod"}))
        return web.json_response(body)

    def has(self, path: str, name: str) -> bool:
        """Return whether a collection contains an object with this name."""
        objects = {PDBS_OF_TENANT: self.pdbs, PODS: [*self.pods, *self.strangers]}
        stored = self.secrets | self.others
        return name in map(_name, objects.get(path, [])) or f"{path}/{name}" in stored

    def patch_avatar(self, path: str, body: Any) -> web.Response:
        """Change the status or the finalizers of an avatar in the version of the body."""
        name = path.removesuffix("/status").rpartition("/")[2]
        found = [avatar for avatar in self.avatars if _name(avatar) == name]
        if not found:
            return web.json_response({"message": "not found"}, status=404)
        (avatar,) = found
        if body["metadata"]["resourceVersion"] != avatar["metadata"]["resourceVersion"]:
            return web.json_response({"message": "the object has been modified"}, status=409)
        if path.endswith("/status"):
            avatar["status"] = body["status"]
        else:
            avatar["metadata"]["finalizers"] = body["metadata"]["finalizers"]
        self.stamp(avatar)
        if "deletionTimestamp" in avatar["metadata"] and not avatar["metadata"]["finalizers"]:
            self.avatars.remove(avatar)
        return web.json_response(avatar)

    def patch_secret(self, path: str, operations: Any) -> web.Response:
        """Apply a JSON patch of the forms that the operator sends."""
        if path not in self.secrets:
            return web.json_response({"message": "not found"}, status=404)
        secret = self.secrets[path]
        metadata = secret["metadata"]
        owners = metadata.get("ownerReferences", [{}])
        values = {
            "/metadata/labels/app.kubernetes.io~1managed-by": metadata.get("labels", {}).get(
                "app.kubernetes.io/managed-by"
            ),
            "/metadata/ownerReferences/0/uid": owners[0].get("uid"),
            "/data": secret["data"],
        }
        *tests, last = operations
        tests += [last] if last["op"] == "test" else []
        if any(values[each["path"]] != each["value"] for each in tests):
            return web.json_response({"message": "testing value failed"}, status=422)
        if last["op"] == "add" and last["path"] == "/data":
            secret["data"] = last["value"]
            self.stamp(secret)
        return web.json_response(secret)

    @property
    def lists(self) -> int:
        return self.requests.count(PDBS)  # the last of each resync

    @property
    def status(self) -> Any:
        """The status besides the claim of the operator."""
        found = self.services[0].get("status", {})
        return {key: value for key, value in found.items() if key != "operator"}

    def condition(self, kind: str) -> tuple[str, str]:
        for each in self.status.get("conditions", []):
            if each["type"] == kind:
                return each["status"], each["reason"]
        return "", ""

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class Operator:
    """A manager with its API server; a test sends the watch events itself."""

    def __init__(self, api: ApiServer, manager: Manager, make: Make, metrics: Metrics) -> None:
        self.api = api
        self.manager = manager
        self.make = make
        self.metrics = metrics
        self._running: asyncio.Task[None] | None = None

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        lines = self.metrics.render().decode().splitlines()
        (line,) = [line for line in lines if line.startswith(f"avatar_operator_{name} ")]
        return float(line.split()[1])

    def start(self) -> None:
        self._running = asyncio.create_task(self.manager.run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def apply(self, **spec: Any) -> Body:
        body = self.make.service_body(**spec)
        body["status"] = {"operator": INSTALLATION}
        self.api.services = [self.api.stamp(body)]
        self.observe(Kind.SERVICES, body)
        return body

    def observe(self, kind: Kind, body: Body) -> None:
        self.manager.observe(kind, copy.deepcopy(body))


@pytest.fixture
def operator_environment() -> dict[str, str]:
    """Return variables of the operator's environment; a test may parametrize it."""
    return {}


@pytest_asyncio.fixture
async def stopped_operator(
    make: Make, fence: Fence, request: pytest.FixtureRequest, operator_environment: dict[str, str]
) -> AsyncIterator[Operator]:
    """Yield an operator that is not started; the parameter is the resync interval in seconds."""
    api = ApiServer(make)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        environment = {
            "AVATAR_NAMESPACE": "system",
            "AVATAR_CONTROL_SECRET": "control",
            "AVATAR_RUNTIME_IMAGE": "runtime:1",
            "AVATAR_RESYNC_S": getattr(request, "param", "1"),
            **operator_environment,
        }
        async with KubernetesClient(configuration, fence, "p0") as client:
            metrics = Metrics()
            manager = Manager(client, settings.from_env(environment), fence, metrics)
            operator = Operator(api, manager, make, metrics)
            try:
                yield operator
            finally:
                await operator.stop()
    finally:
        api.end_watches()
        await runner.cleanup()


@pytest_asyncio.fixture
async def operator(stopped_operator: Operator) -> Operator:
    """Return an operator that runs."""
    stopped_operator.start()
    return stopped_operator


@pytest_asyncio.fixture
async def quiet_operator(stopped_operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Return an operator that runs and does not resync within a test (with a long interval)."""
    monkeypatch.setattr(informers, "SECOND_LIST_S", 3600.0)
    stopped_operator.start()
    return stopped_operator
