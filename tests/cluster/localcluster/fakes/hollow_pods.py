"""GPU nodes whose runtime pods are puppets: they run no process, and have sessions at will.

What is real: Node and Pod objects, the scheduler, the pods' admin port (state stream and drain on
each pod's own loopback address). What is not: a container, a GPU, a session's frames, and the 50 s
that the control plane waits before it says that a node is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import itertools
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from localcluster.controlplane.kubeapi import Api, Body

GPUS: Final = 8  # of a node
CAPACITY: Final = 8  # sessions of a pod
ADMIN_PORT: Final = 9090
STATE_EVERY_S: Final = 0.5
BEAT_S: Final = 10.0  # the control plane gives a node 50 s
LABELS: Final = {
    "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090",
    "nvidia.com/gpu.memory": "24564",
    "nvidia.com/gpu.count": str(GPUS),
}

_networks: Final = itertools.count(os.getpid())
"""Stages that run at once, here or in another process, should not share addresses."""


@dataclass(slots=True)
class Puppet:
    """A runtime pod."""

    namespace: str
    name: str
    service: str
    node: str
    address: str
    sessions: int = 0
    draining: bool = False
    first_frame_ms: float | None = None
    """The p95 that it reports."""
    silent: bool = False
    gone: bool = False
    tokens: set[str] = field(default_factory=set)
    """What it was asked with."""


class Stage:
    """Some nodes and all puppets on them."""

    def __init__(
        self, api: Api, nodes: int, *, start_s: float = 0.0, every_s: float = STATE_EVERY_S
    ) -> None:
        """`start_s`: from the binding of a pod to its readiness; `every_s`: between two states."""
        self._api = api
        self._start_s = start_s
        self._every_s = every_s
        self._nodes = [f"puppets-{number}" for number in range(nodes)]
        self._pending: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._sites: dict[str, web.TCPSite] = {}  # by UID of the pod
        self._by_address: dict[str, Puppet] = {}
        self._changed = asyncio.Condition()
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        self._awaited: set[str] = set()  # UIDs of pods that will come to life
        self._started = 0
        self._network = 20 + next(_networks) % 200
        self._lost: dict[str, list[Body]] = {}  # node: its pods that were deleted meanwhile
        self.puppets: dict[str, Puppet] = {}
        """By UID of the pod."""
        self.cut: list[Puppet] = []
        """Pods that were deleted while they had sessions."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """Register the nodes; until the block ends, `see` brings pods bound to them to life."""
        await self._runner.setup()
        for name in self._nodes:
            await self._register(name)
        await self._report_nodes()
        tasks = [asyncio.create_task(self._beat(), name="beat of the puppets")]
        tasks += [asyncio.create_task(self._act(), name=f"puppeteer {n}") for n in range(8)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for puppet in self.puppets.values():
                puppet.gone = True
            await self._runner.cleanup()
            for error in ended:
                if isinstance(error, Exception):
                    raise error

    def see(self, kind: str, pod: Body) -> None:
        """Take in news of a pod, from a `kubeapi.Mirror`."""
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._pending.put_nowait(lambda: self._strike(uid))
        elif pod["spec"].get("nodeName") in self._nodes:
            if "deletionTimestamp" in pod["metadata"]:
                self._pending.put_nowait(lambda: self._bury(pod))
            elif uid not in self.puppets and uid not in self._awaited:
                self._awaited.add(uid)
                begin = functools.partial(self._pending.put_nowait, lambda: self._raise(pod))
                asyncio.get_running_loop().call_later(self._start_s, begin)
        elif "deletionTimestamp" in pod["metadata"]:
            self._pending.put_nowait(lambda: self._bury(pod))

    def of(self, namespace: str) -> list[Puppet]:
        """Return the living puppets of a namespace, by name."""
        found = [p for p in self.puppets.values() if p.namespace == namespace]
        return sorted(found, key=lambda puppet: puppet.name)

    async def set_mute(self, puppets: Iterable[Puppet], mute: bool) -> None:
        """Let streams fall silent, or speak again."""
        for puppet in puppets:
            puppet.silent = mute
        await self._tell()

    async def set_sessions(self, puppet: Puppet, sessions: int) -> None:
        """Let sessions begin or end by themselves."""
        puppet.sessions = sessions
        await self._tell()

    async def set_first_frame(self, puppet: Puppet, p95_ms: float | None) -> None:
        """Let a pod report how long its first frames take, None as one that had no session."""
        puppet.first_frame_ms = p95_ms
        await self._tell()

    async def join(self, node: str) -> None:
        """Add a node, as an autoscaler would."""
        await self._register(node)
        self._nodes.append(node)
        await self._report_nodes()

    async def _register(self, node: str) -> None:
        body = {
            "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node, **LABELS}},
            "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        }
        await self._api.post("/api/v1/nodes", body)

    async def lose(self, node: str) -> None:
        """Cut a node off: its pods fall silent, none of them ends, and it is said to be lost."""
        self._lost[node] = []
        await self._silence(node, silent=True)
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        status = {"conditions": [{**unknown, "message": "Kubelet stopped posting node status."}]}
        await self._api.merge(f"/api/v1/nodes/{node}/status", {"status": status})

    async def find(self, node: str) -> None:
        """Let a lost node come back as it was; pods that were deleted meanwhile end now."""
        deleted = self._lost.pop(node)
        await self._silence(node, silent=False)
        await self._report_nodes()
        for pod in deleted:
            await self._bury(pod)

    async def _silence(self, node: str, *, silent: bool) -> None:
        for puppet in self.puppets.values():
            if puppet.node == node:
                puppet.silent = silent
        await self._tell()

    async def _act(self) -> None:
        while True:
            act = await self._pending.get()
            await act()

    async def _raise(self, pod: Body) -> None:
        metadata = pod["metadata"]
        if metadata["uid"] not in self._awaited or metadata["uid"] in self.puppets:
            return  # it was deleted before it started
        self._started += 1
        high, low = divmod(self._started, 250)
        labels = metadata.get("labels", {})
        puppet = Puppet(
            metadata["namespace"],
            metadata["name"],
            labels.get("avatar.musetalk.io/service", ""),
            pod["spec"]["nodeName"],
            f"127.{self._network}.{high}.{low + 1}",
        )
        self.puppets[metadata["uid"]] = puppet
        self._by_address[puppet.address] = puppet
        site = web.TCPSite(self._runner, puppet.address, ADMIN_PORT)
        await site.start()
        self._sites[metadata["uid"]] = site
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        container = {"name": "runtime", "state": running, "ready": True, "started": True}
        status = {
            "phase": "Running",
            "podIP": puppet.address,
            "podIPs": [{"ip": puppet.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {**container, "restartCount": 0, "image": "puppet", "imageID": "puppet"}
            ],
        }
        await self._api.merge(f"{_path(pod)}/status", {"status": status})

    async def _bury(self, pod: Body) -> None:
        """End a deleted pod at once, and note who was in it."""
        self._awaited.discard(pod["metadata"]["uid"])
        deferred = self._lost.get(pod["spec"].get("nodeName", ""))
        if deferred is not None:
            deferred.append(pod)
            return
        puppet = self.puppets.get(pod["metadata"]["uid"])
        if puppet is not None and puppet.sessions:
            self.cut.append(puppet)
        await self._api.delete(_path(pod), {"gracePeriodSeconds": 0})

    async def _strike(self, uid: str) -> None:
        self._awaited.discard(uid)
        puppet, site = self.puppets.pop(uid, None), self._sites.pop(uid, None)
        if puppet is not None:
            puppet.gone = True
            self._by_address.pop(puppet.address, None)
            await self._tell()
        if site is not None:
            await site.stop()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._report_nodes()

    async def _report_nodes(self) -> None:
        room = {"nvidia.com/gpu": str(GPUS), "cpu": "64", "memory": "256Gi", "pods": "110"}
        # The node controller reads this time alone, and only whether it is another one.
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now}
        for name in self._nodes:
            if name in self._lost:
                continue
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            await self._api.merge(f"/api/v1/nodes/{name}/status", {"status": status})

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        puppet = self._by_address.get(request.transport.get_extra_info("sockname")[0])
        if puppet is None or not request.headers.get("Authorization", "").startswith("Bearer "):
            return web.Response(status=401)
        puppet.tokens.add(request.headers["Authorization"])
        if puppet.silent:
            async with self._changed:
                await self._changed.wait_for(lambda: puppet.gone or not puppet.silent)
        if request.path == "/control/v1/drain":
            puppet.draining = (await request.json())["draining"]
            await self._tell()
            return web.Response()
        return await self._state(request, puppet)

    async def _state(self, request: web.BaseRequest, puppet: Puppet) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not puppet.gone:
            told = _line(puppet)
            try:
                if told is not None:
                    await response.write(told)
            except ConnectionError:
                break  # the operator was killed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s), self._changed:
                    await self._changed.wait_for(
                        lambda was=told: puppet.gone or was != _line(puppet)  # type: ignore[misc]
                    )
        return response


def _line(puppet: Puppet) -> bytes | None:
    """Return what a pod says of itself now, None while it is silent."""
    if puppet.silent:
        return None
    document = {
        "pod": puppet.name,
        "service": f"{puppet.namespace}/{puppet.service}",
        "sessions": puppet.sessions,
        "capacity": CAPACITY,
        "free": 0 if puppet.draining else CAPACITY - puppet.sessions,
        "draining": puppet.draining,
        "ready": True,
        "latency_ms": {"first_frame_p95": puppet.first_frame_ms},
    }
    return json.dumps(document).encode() + b"\n"


def _path(pod: Body) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
