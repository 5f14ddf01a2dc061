"""A minimal fake API server that measures the cost of the operator: no etcd, scheduler or kubelet.

It stores the objects that the operator writes, counts the requests, and serves the stored objects.
A created pod is bound and started immediately, in the three steps of a real pod; watches receive
an event for each step. It runs in its own process, so that its CPU time is not counted as the
operator's. It does not validate requests: the tests on the real control plane do that.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from avatar_operator import names
from localcluster.fakes import kwok

Body = dict[str, Any]

SERVICES: Final = f"/apis/{names.API_VERSION}/{names.SERVICES}"
PROFILES: Final = f"/apis/{names.API_VERSION}/{names.PROFILES}"
AVATARS: Final = f"/apis/{names.API_VERSION}/{names.AVATARS}"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
COLLECTIONS: Final = (
    SERVICES, PROFILES, AVATARS, "/apis/batch/v1/jobs", "/api/v1/nodes",
    "/api/v1/pods", "/api/v1/namespaces",
    "/apis/policy/v1/poddisruptionbudgets",
    CRDS,
)  # fmt: skip
POD_NETWORK: Final = "127.77.{}.{}"
LINE_S: Final = 1.0  # an idle runtime sends one line per second


@dataclass(slots=True)
class Collection:
    """All objects of one kind, stored as bytes to save memory."""

    objects: dict[str, bytes] = field(default_factory=dict)  # by namespace/name
    versions: dict[str, int] = field(default_factory=dict)
    watches: list[asyncio.Queue[bytes]] = field(default_factory=list)


class FakeApi:
    """The server: its objects and the number of requests of each kind."""

    def __init__(self, streams: bool) -> None:
        self.collections = {path: Collection() for path in COLLECTIONS}
        self.others: dict[str, Body] = {}  # Secrets and the Lease, by path
        self.requests: collections.Counter[str] = collections.Counter()
        self._version = 1
        self._pods = 0
        self._streams = streams
        self._free_nodes: list[str] = []  # one node name for each free GPU

    def put(self, path: str, body: Body, event_type: str = "ADDED") -> Body:
        """Store an object, and send an event to the watches."""
        self._version += 1
        metadata = body["metadata"]
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("uid", f"{self._version:08x}-0000-4000-8000-{self._version:012x}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        data = json.dumps(body, separators=(",", ":")).encode()
        found = self.collections[path]
        key = f"{metadata.get('namespace', '')}/{metadata['name']}"
        found.objects[key], found.versions[key] = data, self._version
        event = b'{"type":"%s","object":%s}\n' % (event_type.encode(), data)
        for watch in found.watches:
            watch.put_nowait(event)
        return body

    def add_nodes(self, count: int) -> None:
        for number in range(count):
            node = kwok.node(number)
            node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
            self.put("/api/v1/nodes", node)
            self._free_nodes += [node["metadata"]["name"]] * kwok.GPUS

    def unsettled(self) -> int:
        """Return the number of services whose status does not match their spec yet."""
        found = (json.loads(data) for data in self.collections[SERVICES].objects.values())
        return sum(not _is_settled(service) for service in found)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path, method = request.path, request.method
        if method == "GET" and path in self.collections:
            if "watch" in request.query:
                return await self._watch(request)
            self.requests["list"] += 1
            return self._list(path, int(request.query.get("limit", 500)), request.query)
        if method == "GET" and "fieldSelector" in request.query:
            return self._find(path, request.query["fieldSelector"].removeprefix("metadata.name="))
        if method == "GET":
            return self._get(path)
        body = json.loads(await request.read() or b"{}")
        if isinstance(body, list):
            return self._patch(path, body, dry_run="dryRun" in request.query)
        return self._write(method, path.split("/"), path, body)

    def _list(self, path: str, limit: int, query: Any) -> web.Response:
        start = int(query.get("continue") or 0)
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        objects = self.collections[path].objects
        found = [data for key, data in objects.items() if not name or key.endswith(f"/{name}")]
        more = str(start + limit) if start + limit < len(found) else ""
        metadata = json.dumps({"resourceVersion": str(self._version), "continue": more}).encode()
        items = b",".join(found[start : start + limit])
        data = b'{"kind":"List","metadata":%s,"items":[%s]}' % (metadata, items)
        return web.Response(body=data, content_type="application/json")

    def _find(self, path: str, name: str) -> web.Response:
        """Return the object with this name of the collection of a namespace, as a list."""
        group, _, rest = path.partition("/namespaces/")
        namespace, _, plural = rest.partition("/")
        if f"{group}/{plural}" not in self.collections:
            return self._get(path)
        self.requests["find"] += 1
        found = self.collections[f"{group}/{plural}"].objects.get(f"{namespace}/{name}")
        items = [] if found is None else [json.loads(found)]
        metadata = {"resourceVersion": str(self._version)}
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        events: asyncio.Queue[bytes] = asyncio.Queue()
        found = self.collections[request.path]
        since = int(request.query.get("resourceVersion") or self._version)
        for key, version in found.versions.items():
            if version > since:  # it changed after the list
                events.put_nowait(b'{"type":"MODIFIED","object":%s}\n' % found.objects[key])
        found.watches.append(events)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            with contextlib.suppress(ConnectionError):  # the watcher disconnected
                while True:
                    await response.write(await events.get())
        finally:
            found.watches.remove(events)
        return response

    def _get(self, path: str) -> web.Response:
        if path in _DISCOVERY:
            return web.json_response(_DISCOVERY[path])
        self.requests["get"] += 1
        if path in self.others:
            return web.json_response(self.others[path])
        return _missing(path)

    def _write(self, method: str, parts: list[str], path: str, body: Body) -> web.Response:
        kind = parts[-1] if method == "POST" else parts[-2]
        self.requests[
            f"{method.lower()} {parts[-3] + '/status' if parts[-1] == 'status' else kind}"
        ] += 1
        if parts[-1] == "status":
            return self._write_status(parts, body)
        namespace = parts[parts.index("namespaces") + 1]
        if kind == "pods" and method == "POST":
            return web.json_response(self._create(namespace, body), status=201)
        if kind == "poddisruptionbudgets":
            self.put("/apis/policy/v1/poddisruptionbudgets", body)
        elif kind in ("secrets", "leases"):
            name = path if method == "PATCH" else f"{path}/{body['metadata']['name']}"
            self._version += 1
            body["metadata"]["resourceVersion"] = str(self._version)
            if "stringData" in body:
                body["data"] = dict.fromkeys(body.pop("stringData"), "bWFzdGVy")
            self.others[name] = body
        elif kind != "events":
            return _missing(path)
        return web.json_response(body)

    def _patch(self, path: str, operations: list[Body], *, dry_run: bool) -> web.Response:
        """Apply a JSON patch of a Secret; owners are not tested, because all objects are ours."""
        self.requests["dry run" if dry_run else "patch secrets"] += 1
        if path not in self.others:
            return _missing(path)
        stored, last = self.others[path], operations[-1]
        if last["op"] == "test" and stored["data"] != last["value"]:
            return web.json_response({"message": "testing value failed"}, status=422)
        if last["op"] == "add" and last["path"] == "/data":
            stored["data"] = last["value"]
        return web.json_response(stored)

    def _write_status(self, parts: list[str], body: Body) -> web.Response:
        plural, name = parts[-3], parts[-2]
        path = SERVICES if plural == names.SERVICES else PROFILES
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        stored = json.loads(self.collections[path].objects[f"{namespace}/{name}"])
        stored["status"] = body["status"]
        return web.json_response(self.put(path, stored, "MODIFIED"))

    def _create(self, namespace: str, body: Body) -> Body:
        body["metadata"]["namespace"] = namespace
        self._pods += 1
        created = self.put("/api/v1/pods", body | {"status": {"phase": "Pending"}})
        answer: Body = json.loads(json.dumps(created))
        asyncio.get_running_loop().create_task(self._start(created, self._pods))
        return answer

    async def _start(self, pod: Body, number: int) -> None:
        pod["spec"]["nodeName"] = self._free_nodes.pop()
        scheduled = {"type": "PodScheduled", "status": "True"}
        pod["status"]["conditions"] = [scheduled]
        self.put("/api/v1/pods", pod, "MODIFIED")
        ip = POD_NETWORK.format(number // 250, number % 250 + 1)
        if self._streams:
            await asyncio.start_server(self._serve_state, ip, names.ADMIN_PORT)
        running = {"name": names.CONTAINER, "state": {"running": {}}, "ready": False}
        pod["status"] |= {"phase": "Running", "podIP": ip, "containerStatuses": [running]}
        self.put("/api/v1/pods", pod, "MODIFIED")
        running["ready"] = True
        pod["status"]["conditions"] = [scheduled, {"type": "Ready", "status": "True"}]
        self.put("/api/v1/pods", pod, "MODIFIED")

    async def _serve_state(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve the admin port of an idle runtime."""
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError
        ):  # the reader disconnected
            await reader.readuntil(b"\r\n\r\n")
            await self._send_states(writer)

    async def _send_states(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        sequence = 0
        while not writer.is_closing():
            sequence += 1
            line = json.dumps(_STATE | {"sequence": sequence}).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await asyncio.sleep(LINE_S)


_STATE: Final = {
    "pod": "p", "service": "s", "gpu_class": "rtx-4090", "batch_size": 8, "batch_limit": 8,
    "capacity": 2, "sessions": 0, "speaking": 0, "free": 2, "draining": False, "ready": True,
    "vram": {"used_bytes": 5 << 30, "total_bytes": 24 << 30, "ratio": 0.2083},
    "latency_ms": {"first_frame_p95": None, "frame_p95": None}, "deadline_miss_ratio": 0.0,
    "batch_fill_ratio": 0.0, "device": "simulated", "calibration": None,
}  # fmt: skip


def _is_settled(service: Body) -> bool:
    """Return whether a status is current; pods whose state is not heard are never ready."""
    status, desired = service.get("status", {}), service["spec"]["replicas"]
    observed = status.get("observedGeneration") == service["metadata"]["generation"]
    return bool(observed and status.get("replicas", desired) == desired)  # bare kopf reports none


def _missing(path: str) -> web.Response:
    status = {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"no {path}"}
    return web.json_response(status, status=404)


def _resource(plural: str, kind: str, namespaced: bool) -> Body:
    return {
        "name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind,
        "verbs": ["list", "watch", "get", "patch", "create", "delete"],
    }  # fmt: skip


def _group(name: str, version: str) -> Body:
    versions = [{"groupVersion": f"{name}/{version}", "version": version}]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


_CRDS: Final = "apiextensions.k8s.io"
_DISCOVERY: Final[dict[str, Body]] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": [_resource("namespaces", "Namespace", False)]},
    "/apis": {"groups": [_group(names.GROUP, names.VERSION), _group(_CRDS, "v1")]},
    f"/apis/{names.API_VERSION}": {
        "resources": [
            _resource(names.SERVICES, names.SERVICE_KIND, True),
            # Without the status subresource, kopf patches the object itself.
            _resource(f"{names.SERVICES}/status", names.SERVICE_KIND, True),
            _resource(names.PROFILES, names.PROFILE_KIND, False),
            _resource(names.AVATARS, names.AVATAR_KIND, True),
            _resource(f"{names.AVATARS}/status", names.AVATAR_KIND, True),
        ]
    },
    f"/apis/{_CRDS}/v1": {
        "resources": [_resource("customresourcedefinitions", "CustomResourceDefinition", False)]
    },
}


async def _control(api: FakeApi, request: web.Request) -> web.Response:
    """Let the benchmark store objects, and read the objects and the request counts."""
    command = await request.json()
    match command["do"]:
        case "nodes":
            api.add_nodes(command["count"])
        case "put":
            api.put(command["path"], command["body"], command.get("event_type", "ADDED"))
        case "services":
            services = api.collections[SERVICES].objects.values()
            return web.json_response([json.loads(data) for data in services])
        case "unsettled":
            return web.json_response(api.unsettled())
    return web.json_response(dict(api.requests))


async def _main(port: int, streams: bool) -> None:
    api = FakeApi(streams)

    async def control(request: web.Request) -> web.Response:
        return await _control(api, request)

    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/control", control)
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2] == "streams"))
