"""Tests of the controllers on a fake API server that can fail on request."""

from __future__ import annotations

import asyncio
import copy
import json
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from avatar_operator import metrics, settings
from avatar_operator.controllers.manager import Manager
from avatar_operator.controllers.service_controller import HOLD_REMOVALS_S
from avatar_operator.core.cache.entries import Kind
from avatar_operator.kube.client import KubernetesClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.operator.conftest import Body, Make

    from avatar_operator.fence import Fence

GROUP = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE = f"{GROUP}/namespaces/acme/avatarservices/concierge"
STATUS = f"{SERVICE}/status"
PDB = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/concierge-live"
PDBS = "/apis/policy/v1/poddisruptionbudgets"
PODS = "/api/v1/namespaces/acme/pods"


class ApiServer:
    """Stores objects, counts versions, and responds like the real API server."""

    def __init__(self, make: Make) -> None:
        self.version = 100
        self.services: list[Body] = []
        self.profiles = [make.profile_body()]
        self.nodes = [make.node_body()]
        self.pods: list[Body] = []
        self.pdbs: list[Body] = []
        self.events: list[Body] = []
        self.writes: list[tuple[str, str]] = []
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
        if method != "GET":
            self.writes.append((method, path))
        if (method, path) in self.faults:
            status, message = self.faults[method, path]
            return web.json_response({"message": message}, status=status)
        body = await request.json() if request.can_read_body else {}
        return self.respond(method, path, body)

    def respond(self, method: str, path: str, body: Body) -> web.Response:
        lists = {
            "/api/v1/nodes": self.nodes,
            "/api/v1/pods": self.pods,
            f"{GROUP}/gpuprofiles": self.profiles,
            f"{GROUP}/avatarservices": self.services,
            PDBS: self.pdbs,
        }
        match method, path:
            case "GET", _ if path in lists:
                metadata = {"resourceVersion": str(self.version)}
                return web.json_response({"items": lists[path], "metadata": metadata})
            case "GET", "/api/v1/namespaces/system/secrets/control":
                return web.json_response({"data": {"master": "bWFzdGVy"}})
            case "GET", _ if path == SERVICE and self.services:
                return web.json_response(self.services[0])
            case "GET", _:
                return web.json_response({"message": "not found"}, status=404)
            case "POST", "/api/v1/namespaces/acme/events":
                self.events.append(body)
            case "POST", _:
                body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
                self.pods.append(self.stamp(body))
            case "PATCH", _ if path == STATUS:
                (service,) = self.services
                service["status"] = body["status"]
                return web.json_response(self.stamp(service))
            case "PATCH", _ if path == PDB:
                self.pdbs[:] = [body]
            case "DELETE", _:
                (pod,) = [pod for pod in self.pods if path.endswith(pod["metadata"]["name"])]
                self.pods.remove(pod)
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                return web.json_response(self.stamp({**pod, "kind": "Pod"}))
        return web.json_response(body)

    @property
    def lists(self) -> int:
        return self.requests.count(PDBS)  # the last of each resync

    @property
    def status(self) -> Any:
        return self.services[0].get("status", {})

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

    def __init__(self, api: ApiServer, manager: Manager, make: Make) -> None:
        self.api = api
        self.manager = manager
        self.make = make

    def apply(self, **spec: Any) -> Body:
        body = self.make.service_body(**spec)
        self.api.services = [self.api.stamp(body)]
        self.observe(Kind.SERVICES, body)
        return body

    def observe(self, kind: Kind, body: Body) -> None:
        self.manager.observe(kind, copy.deepcopy(body))


@pytest_asyncio.fixture
async def operator(
    make: Make, fence: Fence, request: pytest.FixtureRequest
) -> AsyncIterator[Operator]:
    api = ApiServer(make)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    environment = {
        "AVATAR_NAMESPACE": "system",
        "AVATAR_CONTROL_SECRET": "control",
        "AVATAR_RUNTIME_IMAGE": "runtime:1",
        "AVATAR_RESYNC_S": getattr(request, "param", "1"),
    }
    async with KubernetesClient(configuration, fence, "p0") as client:
        manager = Manager(client, settings.from_env(environment), fence, metrics.Metrics())
        running = asyncio.create_task(manager.run())
        yield Operator(api, manager, make)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    api.end_watches()
    await runner.cleanup()


async def test_a_new_service_gets_its_secret_its_pod_and_its_status(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingUp"))
    secret = "/api/v1/namespaces/acme/secrets/concierge-control"
    own = [("PATCH", secret), ("PATCH", PDB)]
    assert api.writes[:4] == [*own, ("POST", PODS), ("PATCH", STATUS)]
    assert operator.manager.is_ready()
    assert operator.manager.is_alive()
    await api.until(lambda: len(api.events) >= 2)
    reasons = [event["reason"] for event in api.events]
    assert reasons[:2] == ["PodCreated", "PodsStarting"]


@pytest.mark.slow
async def test_resyncs_of_a_service_at_rest_write_nothing(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    await api.until(lambda: api.events)
    writes = [write for write in api.writes if "/secrets/" not in write[1]]
    lists = api.lists
    await api.until(lambda: api.lists >= lists + 2)
    assert [write for write in api.writes if "/secrets/" not in write[1]] == writes


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["300"], indirect=True)
async def test_a_second_list_soon_follows_the_first(operator: Operator) -> None:
    await operator.api.until(lambda: operator.api.lists >= 2)
    assert operator.manager.is_ready()


async def test_a_rejected_pod_is_reported_and_retried(operator: Operator) -> None:
    api = operator.api
    api.faults["POST", PODS] = (403, "exceeded quota")
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Degraded") == ("True", "ApplyFailed"))
    assert api.pods == []
    del api.faults["POST", PODS]
    await api.until(lambda: api.pods and api.condition("Degraded") == ("False", "Applied"))


async def test_a_pod_that_already_exists_is_not_a_failure(operator: Operator) -> None:
    api = operator.api
    api.faults["POST", PODS] = (409, "already exists")
    operator.apply(replicas=1)
    await api.until(lambda: api.status)
    assert api.condition("Degraded") == ("False", "Applied")


async def test_an_invalid_spec_is_reported_in_the_status(operator: Operator) -> None:
    api = operator.api
    operator.apply(fps=7)
    await api.until(lambda: api.condition("Stalled") == ("True", "InvalidSpec"))
    assert "spec.fps is 7" in api.status["conditions"][0]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["300"], indirect=True)
@pytest.mark.parametrize("event_type", ["MODIFIED", "DELETED"])
async def test_a_pdb_changed_by_someone_else_is_soon_applied_again(
    operator: Operator, event_type: str
) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    await api.until(lambda: PDBS in api.watches)
    (pdb,) = copy.deepcopy(api.pdbs)
    writes = api.writes.count(("PATCH", PDB))
    api.send_event(PDBS, "MODIFIED", api.stamp(copy.deepcopy(pdb)))  # correct
    pdb["spec"]["minAvailable"] = 0
    api.send_event(PDBS, event_type, api.stamp(pdb))
    await api.until(lambda: api.writes.count(("PATCH", PDB)) == writes + 1)


async def test_an_event_that_cannot_be_created_does_not_stop_the_reconcile(
    operator: Operator,
) -> None:
    api = operator.api
    api.faults["POST", "/api/v1/namespaces/acme/events"] = (403, "no")
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)


async def test_a_pod_that_never_started_is_deleted_on_a_scale_down(operator: Operator) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: not api.pods)
    assert ("DELETE", f"{PODS}/{pod['metadata']['name']}") in api.writes
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))


async def test_a_running_pod_without_a_state_is_never_deleted(operator: Operator) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    pod["status"] = {
        "phase": "Running",
        "podIP": "127.0.0.254",  # nothing listens there
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "runtime", "state": {"running": {}}}],
    }
    pod["spec"]["nodeName"] = "n1"
    operator.observe(Kind.PODS, api.stamp(pod))
    await api.until(lambda: api.condition("StateFresh") == ("False", "StateMissing"))
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingDown"))
    assert api.pods == [pod]
    assert not [write for write in api.writes if write[0] == "DELETE"]


@pytest.mark.slow
async def test_a_deletion_that_the_watch_missed_is_found_by_the_next_list(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    first = api.pods.pop()
    await api.until(lambda: api.pods)  # the deletion was found and the pod replaced
    assert api.pods[0]["metadata"]["name"] == first["metadata"]["name"]


@pytest.mark.slow
async def test_a_deleted_service_is_forgotten(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.events)
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    operator.observe(Kind.NODES, operator.make.node_body("n2"))
    writes, lists = len(api.writes), api.lists
    await api.until(lambda: api.lists >= lists + 2)
    assert len(api.writes) == writes


@pytest.mark.slow
async def test_the_operator_waits_for_a_missing_crd(operator: Operator) -> None:
    api = operator.api
    api.faults["GET", f"{GROUP}/avatarservices"] = (404, "no such kind")
    operator.apply(replicas=0)
    await api.until(lambda: f"{GROUP}/avatarservices" in api.requests)
    assert not operator.manager.is_ready()
    assert api.writes == []
    del api.faults["GET", f"{GROUP}/avatarservices"]
    await api.until(lambda: api.status)
    assert operator.manager.is_ready()


async def test_the_pods_of_a_deleted_service_are_deleted_too(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    await api.until(lambda: not api.pods)


async def test_a_pod_that_is_observed_before_its_service_is_not_deleted(operator: Operator) -> None:
    api = operator.api
    service = api.stamp(operator.make.service_body(replicas=1))
    await api.until(lambda: operator.manager.is_ready())
    api.services = [service]
    pod = operator.make.pod_body()
    api.pods = [api.stamp(pod)]
    operator.observe(Kind.PODS, pod)
    await api.until(lambda: SERVICE in api.requests)
    assert not [write for write in api.writes if write[0] == "DELETE"]


@pytest.mark.slow
async def test_a_pdb_that_was_changed_by_someone_else_is_applied_again(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.pdbs)
    api.pdbs[0] = {**api.pdbs[0], "spec": {"minAvailable": 1}}
    await api.until(lambda: api.pdbs[0]["spec"]["minAvailable"] == 1_000_000)


async def test_a_field_that_another_manager_applies_is_reported_and_not_overwritten(
    operator: Operator,
) -> None:
    api = operator.api
    conflict = 'Apply failed with 1 conflict: conflict with "flux": .spec.minAvailable'
    api.faults["PATCH", PDB] = (409, conflict)
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Degraded") == ("True", "FieldConflict"))
    assert api.condition("Ready") == ("True", "ScaledToZero")
    assert api.writes.count(("PATCH", PDB)) == 1
    del api.faults["PATCH", PDB]
    await api.until(lambda: api.condition("Degraded") == ("False", "Applied"))


async def test_a_paused_service_only_gets_a_status(operator: Operator) -> None:
    api = operator.api
    body = operator.make.service_body(replicas=1)
    body["metadata"]["annotations"] = {"avatar.musetalk.io/paused": "true"}
    api.services = [api.stamp(body)]
    operator.observe(Kind.SERVICES, body)
    await api.until(lambda: api.condition("Progressing") == ("False", "Paused"))
    assert api.condition("Ready") == ("False", "Paused")
    assert {path for _, path in api.writes} <= {STATUS, "/api/v1/namespaces/acme/events"}
    del body["metadata"]["annotations"]
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: api.pods)


async def test_a_standby_lists_everything_and_writes_nothing(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    fence.close()
    operator.apply(replicas=1)
    lists = api.lists
    await api.until(lambda: api.lists > lists + 1)  # the previous resync has ended
    assert operator.manager.is_ready()
    assert api.writes == []
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    assert pod["metadata"]["annotations"]["avatar.musetalk.io/epoch"] == "8"


async def test_a_leader_that_was_interrupted_continues_when_it_leads_again(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.status)
    fence.close()
    operator.manager.lead(None)
    body = operator.apply(replicas=1)
    writes = list(api.writes)
    lists = api.lists
    await api.until(lambda: api.lists > lists)
    assert api.writes == writes
    fence.open_until(inf, epoch=9)  # a late renewal: no other replica led, no new election
    await api.until(lambda: api.pods)
    assert body["spec"]["replicas"] == 1


@pytest.mark.slow
async def test_leading_again_under_the_same_epoch_is_not_a_new_term(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    loop = asyncio.get_running_loop()
    settled_at = loop.time() + HOLD_REMOVALS_S  # after the first plan of the term
    await api.until(lambda: api.lists >= 3 and loop.time() > settled_at)
    fence.close()
    operator.manager.lead(None)
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    writes = len(api.writes)
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    await api.until(lambda: not api.pods)
    first = next(method for method, path in api.writes[writes:] if "/secrets/" not in path)
    assert first == "DELETE"  # the first plan may remove pods, unlike that of a new leader


@pytest.mark.slow
async def test_the_first_plan_of_a_new_leader_removes_nothing(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    fence.close()
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    loop = asyncio.get_running_loop()
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    began_at = loop.time()
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingDown"))
    assert api.pods == [pod]  # the first plan writes this status
    await api.until(lambda: not api.pods)
    assert loop.time() - began_at >= HOLD_REMOVALS_S


def running(pod: Body) -> Body:
    """Return a pod with the status that a kubelet writes."""
    pod["spec"]["nodeName"] = "n1"
    pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return pod


async def test_pods_are_watched_from_the_version_of_their_list(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and "/api/v1/pods" in api.watches)
    assert sorted(path for path, _ in api.watched_from) == [
        *("/api/v1/nodes", "/api/v1/pods"),
        PDBS,
    ]
    api.send_event("/api/v1/pods", "MODIFIED", api.stamp(running(copy.deepcopy(api.pods[0]))))
    await api.until(lambda: api.condition("Ready") == ("True", "Serving"))
    first = api.pods.pop()
    api.send_event("/api/v1/pods", "DELETED", api.stamp(first))
    await api.until(lambda: api.pods)


@pytest.mark.parametrize("operator", ["300"], indirect=True)
async def test_a_broken_watch_continues_from_its_last_version(operator: Operator) -> None:
    api = operator.api
    await api.until(lambda: "/api/v1/pods" in api.watches)
    bookmark = {"metadata": {"resourceVersion": "4711"}}
    api.send_event("/api/v1/pods", "BOOKMARK", bookmark)
    api.watches["/api/v1/pods"].put_nowait({})  # it ends
    await api.until(lambda: ("/api/v1/pods", "4711") in api.watched_from)
    assert api.requests.count("/api/v1/pods") == 1  # listed once


@pytest.mark.parametrize("operator", ["300"], indirect=True)
async def test_an_expired_watch_is_listed_again_and_missed_deletions_are_found(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status and "/api/v1/pods" in api.watches)
    api.pods.clear()  # without an event, and the next list is empty
    api.send_event("/api/v1/pods", "ERROR", {"code": 410, "message": "too old resource version"})
    await api.until(lambda: api.pods)
    assert api.requests.count("/api/v1/pods") == 2


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["300"], indirect=True)
async def test_services_are_listed_again_when_any_watch_ends(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status and "/api/v1/pods" in api.watches)
    api.services = []  # without an event: the cause that ended the watch of pods ended kopf's too
    api.watches["/api/v1/pods"].put_nowait({})
    await api.until(lambda: not api.pods)
    # At startup, when the watch ended, and the second list after startup.
    await api.until(lambda: api.requests.count(f"{GROUP}/avatarservices") == 3)
