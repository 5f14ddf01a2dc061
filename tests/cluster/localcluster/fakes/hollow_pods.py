"""Hollow nodes with hollow pods, as in kubemark: no process runs, and tests set the sessions.

Real are the Node and Pod objects, the scheduler, and the admin port of each pod (state stream and
drain, on the pod's own loopback address). Not real are containers, GPUs, the frames of a session,
and the 50 s that the control plane waits before it marks a node as lost.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import functools
import itertools
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from avatar_contracts import labels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from localcluster.controlplane.kubeapi import Api, Body

GPUS: Final = 8  # per node
CAPACITY: Final = 8  # sessions per pod
ADMIN_PORT: Final = labels.ADMIN_PORT
STATE_EVERY_S: Final = 0.5
HEARTBEAT_S: Final = 10.0  # the control plane allows a node 50 s
LABELS: Final = {
    "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090",
    "nvidia.com/gpu.memory": "24564",
    "nvidia.com/gpu.count": str(GPUS),
}

RESOURCES: Final = {"nvidia.com/gpu": str(GPUS)}
_USUAL: Final = LABELS, RESOURCES

_networks: Final = itertools.count(os.getpid())
"""Instances that run at the same time, in any process, should not share addresses."""


@dataclass(slots=True)
class HollowPod:
    """A hollow runtime pod."""

    namespace: str
    name: str
    service: str
    node: str
    address: str
    sessions: int = 0
    draining: bool = False
    first_frame_ms: float | None = None
    """The p95 of the first frame that the pod reports; None if it had no session."""
    silent: bool = False
    ready: bool = False
    """Whether its status says that it runs; gateways open no session before."""
    gone: bool = False
    tokens: set[str] = field(default_factory=set)
    """The Authorization headers of the requests."""
    secret: str = ""
    """The name of the Secret that the pod mounts."""
    mounted: dict[str, str] | None = None
    """The content of the mounted Secret; None if the pod accepts every token."""

    def accepts(self, authorization: str, *, control: bool) -> bool:
        """Return whether the pod accepts a token, as `avatar_runtime.serving.pod_tokens` does."""
        if self.mounted is None:
            return authorization.startswith("Bearer ")
        files = [labels.TOKEN_FILE] + ([] if control else [labels.STATE_TOKEN_FILE])
        accepted = {
            self.mounted.get(prefix + name) for name in files for prefix in ("", "previous-")
        }
        return authorization.removeprefix("Bearer ") in accepted - {None}


class HollowNodes:
    """Hollow nodes and the hollow pods on them."""

    def __init__(
        self,
        api: Api,
        nodes: int,
        *,
        start_s: float = 0.0,
        every_s: float = STATE_EVERY_S,
        check_tokens: bool = False,
    ) -> None:
        """`start_s` is the time from the binding of a pod to its readiness; `every_s` is the time
        between two states. With `check_tokens`, pods accept only the tokens of the Secret that they
        mount, as it was when they started or at the last `update_mounts`."""
        self._check_tokens = check_tokens
        self._api = api
        self._start_s = start_s
        self._every_s = every_s
        self._nodes = [f"hollow-node-{number}" for number in range(nodes)]
        self._pending: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._sites: dict[str, web.TCPSite] = {}  # by UID of the pod
        self._by_address: dict[str, HollowPod] = {}
        self._changed = asyncio.Condition()
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        self._gpus: dict[
            str, tuple[Mapping[str, str], Mapping[str, str]]
        ] = {}  # labels and resources of nodes that differ
        self._starting: set[str] = set()  # UIDs of pods that will start
        self._started = 0
        self._network = 20 + next(_networks) % 200
        self._lost: dict[
            str, list[Body]
        ] = {}  # the pods of each lost node that were deleted meanwhile
        self.hollow_pods: dict[str, HollowPod] = {}
        """By UID of the pod."""
        self.deleted_with_sessions: list[HollowPod] = []
        """Pods that were deleted while they had sessions."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[HollowNodes]:
        """Register the nodes, and start pods that are bound to them until the block ends."""
        await self._runner.setup()
        for name in self._nodes:
            await self._register(name)
        await self._report_nodes()
        tasks = [asyncio.create_task(self._heartbeat(), name="node-heartbeat")]
        tasks += [asyncio.create_task(self._work(), name=f"hollow-worker-{n}") for n in range(8)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for hollow_pod in self.hollow_pods.values():
                hollow_pod.gone = True
            await self._runner.cleanup()
            for error in ended:
                if isinstance(error, Exception):
                    raise error

    def on_pod_event(self, kind: str, pod: Body) -> None:
        """Handle an event of a pod from a `kubeapi.Mirror`."""
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._pending.put_nowait(lambda: self._remove_pod(uid))
        elif pod["spec"].get("nodeName") in self._nodes:
            if "deletionTimestamp" in pod["metadata"]:
                self._pending.put_nowait(lambda: self._end_pod(pod))
            elif uid not in self.hollow_pods and uid not in self._starting:
                self._starting.add(uid)
                start = functools.partial(self._pending.put_nowait, lambda: self._start_pod(pod))
                asyncio.get_running_loop().call_later(self._start_s, start)
        elif "deletionTimestamp" in pod["metadata"]:
            self._pending.put_nowait(lambda: self._end_pod(pod))

    def of(self, namespace: str) -> list[HollowPod]:
        """Return the running hollow pods of a namespace, sorted by name."""
        found = [p for p in self.hollow_pods.values() if p.namespace == namespace]
        return sorted(found, key=lambda hollow_pod: hollow_pod.name)

    async def set_silent(self, hollow_pods: Iterable[HollowPod], silent: bool) -> None:
        """Stop or resume the state streams of pods."""
        for hollow_pod in hollow_pods:
            hollow_pod.silent = silent
        await self._notify()

    async def set_sessions(self, hollow_pod: HollowPod, sessions: int) -> None:
        """Set the number of sessions of a pod."""
        hollow_pod.sessions = sessions
        await self._notify()

    async def set_first_frame(self, hollow_pod: HollowPod, p95_ms: float | None) -> None:
        """Set the first-frame latency that a pod reports; None as for a pod without sessions."""
        hollow_pod.first_frame_ms = p95_ms
        await self._notify()

    async def update_mounts(self, hollow_pods: Iterable[HollowPod]) -> None:
        """Update the mounted Secrets of pods, as the kubelet does within about a minute."""
        for hollow_pod in hollow_pods:
            hollow_pod.mounted = await self._read_secret(hollow_pod.namespace, hollow_pod.secret)

    async def _read_secret(self, namespace: str, name: str) -> dict[str, str]:
        secret = await self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}

    async def add_node(
        self,
        node: str,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
    ) -> None:
        """Add a node, as a cluster autoscaler does.

        `labels` and `resources` are those of its GPUs; they default to those of the other nodes.
        """
        self._gpus[node] = (
            LABELS if labels is None else labels,
            RESOURCES if resources is None else resources,
        )
        await self._register(node)
        self._nodes.append(node)
        await self._report_nodes()

    def forget_node(self, node: str) -> None:
        """Stop the heartbeat of a node that was deleted."""
        self._nodes.remove(node)

    async def _register(self, node: str) -> None:
        labels = {"kubernetes.io/hostname": node, **self._gpus.get(node, _USUAL)[0]}
        body = {
            "metadata": {"name": node, "labels": labels},
            "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        }
        await self._api.post("/api/v1/nodes", body)

    async def disconnect(self, node: str) -> None:
        """Disconnect a node: its pods are silent but do not end; the node is marked as lost."""
        self._lost[node] = []
        await self._set_node_silent(node, silent=True)
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        status = {"conditions": [{**unknown, "message": "Kubelet stopped posting node status."}]}
        await self._api.merge(f"/api/v1/nodes/{node}/status", {"status": status})

    async def reconnect(self, node: str) -> None:
        """Reconnect a lost node; pods that were deleted meanwhile end now."""
        deleted = self._lost.pop(node)
        await self._set_node_silent(node, silent=False)
        await self._report_nodes()
        for pod in deleted:
            await self._end_pod(pod)

    async def _set_node_silent(self, node: str, *, silent: bool) -> None:
        for hollow_pod in self.hollow_pods.values():
            if hollow_pod.node == node:
                hollow_pod.silent = silent
        await self._notify()

    async def _work(self) -> None:
        while True:
            action = await self._pending.get()
            await action()

    async def _start_pod(self, pod: Body) -> None:
        metadata = pod["metadata"]
        if metadata["uid"] not in self._starting or metadata["uid"] in self.hollow_pods:
            return  # it was deleted before it started
        self._started += 1
        high, low = divmod(self._started, 250)
        labels = metadata.get("labels", {})
        hollow_pod = HollowPod(
            metadata["namespace"],
            metadata["name"],
            labels.get("avatar.musetalk.io/service", ""),
            pod["spec"]["nodeName"],
            f"127.{self._network}.{high}.{low + 1}",
        )
        if self._check_tokens:
            (hollow_pod.secret,) = (
                volume["secret"]["secretName"]
                for volume in pod["spec"]["volumes"]
                if "secret" in volume
            )
            await self.update_mounts([hollow_pod])
        self.hollow_pods[metadata["uid"]] = hollow_pod
        self._by_address[hollow_pod.address] = hollow_pod
        site = web.TCPSite(self._runner, hollow_pod.address, ADMIN_PORT)
        await site.start()
        self._sites[metadata["uid"]] = site
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        container = {"name": "runtime", "state": running, "ready": True, "started": True}
        status = {
            "phase": "Running",
            "podIP": hollow_pod.address,
            "podIPs": [{"ip": hollow_pod.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {**container, "restartCount": 0, "image": "hollow-pod", "imageID": "hollow-pod"}
            ],
        }
        await self._api.merge(f"{_path(pod)}/status", {"status": status}, metadata["uid"])
        hollow_pod.ready = True

    async def _end_pod(self, pod: Body) -> None:
        """End a deleted pod immediately; record it if it had sessions."""
        self._starting.discard(pod["metadata"]["uid"])
        deferred = self._lost.get(pod["spec"].get("nodeName", ""))
        if deferred is not None:
            deferred.append(pod)
            return
        hollow_pod = self.hollow_pods.get(pod["metadata"]["uid"])
        if hollow_pod is not None and hollow_pod.sessions:
            self.deleted_with_sessions.append(hollow_pod)
        await self._api.delete(_path(pod), {"gracePeriodSeconds": 0}, pod["metadata"]["uid"])

    async def _remove_pod(self, uid: str) -> None:
        self._starting.discard(uid)
        hollow_pod, site = self.hollow_pods.pop(uid, None), self._sites.pop(uid, None)
        if hollow_pod is not None:
            hollow_pod.gone = True
            self._by_address.pop(hollow_pod.address, None)
            await self._notify()
        if site is not None:
            await site.stop()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._report_nodes()

    async def _report_nodes(self) -> None:
        plain = {"cpu": "64", "memory": "256Gi", "pods": "110"}
        # The node controller checks only whether this time has changed.
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now}
        for name in self._nodes:
            if name in self._lost:
                continue
            resources = {**plain, **self._gpus.get(name, _USUAL)[1]}
            status = {"capacity": resources, "allocatable": resources, "conditions": [ready]}
            await self._api.merge(f"/api/v1/nodes/{name}/status", {"status": status})

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        hollow_pod = self._by_address.get(request.transport.get_extra_info("sockname")[0])
        authorization = request.headers.get("Authorization", "")
        is_drain = request.path == labels.DRAIN_PATH
        if hollow_pod is None or not hollow_pod.accepts(authorization, control=is_drain):
            return web.Response(status=401)
        hollow_pod.tokens.add(authorization)
        if hollow_pod.silent:
            async with self._changed:
                await self._changed.wait_for(lambda: hollow_pod.gone or not hollow_pod.silent)
        if is_drain:
            hollow_pod.draining = (await request.json())["draining"]
            await self._notify()
            return web.Response()
        return await self._state(request, hollow_pod)

    async def _state(self, request: web.BaseRequest, hollow_pod: HollowPod) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        except ConnectionError:
            return response  # the operator closed the connection meanwhile
        while not hollow_pod.gone:
            sent = _line(hollow_pod)
            try:
                if sent is not None:
                    await response.write(sent)
            except ConnectionError:
                break  # the operator was killed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s), self._changed:
                    await self._changed.wait_for(
                        lambda was=sent: hollow_pod.gone or was != _line(hollow_pod)  # type: ignore[misc]
                    )
        return response


def _line(hollow_pod: HollowPod) -> bytes | None:
    """Return the current state line of a pod; None while it is silent."""
    if hollow_pod.silent:
        return None
    document = {
        "pod": hollow_pod.name,
        "service": f"{hollow_pod.namespace}/{hollow_pod.service}",
        "sessions": hollow_pod.sessions,
        "capacity": CAPACITY,
        "free": 0 if hollow_pod.draining else CAPACITY - hollow_pod.sessions,
        "draining": hollow_pod.draining,
        "ready": True,
        "latency_ms": {"first_frame_p95": hollow_pod.first_frame_ms},
    }
    return json.dumps(document).encode() + b"\n"


def _path(pod: Body) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
