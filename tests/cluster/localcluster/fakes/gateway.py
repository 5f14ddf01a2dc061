"""A fake gateway without a process: its callers get a slot on a hollow pod or wait for one.

Its Pod object and its state stream on a loopback address are real. It fills the fullest pod with a
free slot, as the gateway does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from localcluster.fakes import hollow_pods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.kubeapi import Api
    from localcluster.fakes.hollow_pods import HollowNodes, HollowPod

EVERY_S: Final = 0.5
SPACING_S: Final = 0.1  # at most ten lines per second, as for the real gateway
_networks: Final = itertools.count(os.getpid())


@dataclass(slots=True)
class CallerQueue:
    """The callers of one service."""

    arrived: int = 0
    sessions: int = 0
    waiting: collections.deque[float] = field(default_factory=collections.deque)
    """How long each waiting caller will stay, in seconds, in order of arrival."""

    @property
    def demand(self) -> int:
        """Return the callers that have a slot or wait for one."""
        return self.sessions + len(self.waiting)


class FakeGateway:
    """The gateway in front of hollow nodes. It supports one service in each namespace."""

    def __init__(self, api: Api, hollow_nodes: HollowNodes, namespace: str) -> None:
        self._api = api
        self._hollow_nodes = hollow_nodes
        self._namespace = namespace
        self._queues: dict[str, CallerQueue] = collections.defaultdict(CallerQueue)
        self._changed = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()
        self._address = f"127.{20 + next(_networks) % 200}.250.1"
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        self.silent = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeGateway]:
        """Serve until the block ends."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, hollow_pods.ADMIN_PORT).start()
        await self._register()
        placing = asyncio.create_task(self._place_forever(), name="place-callers")
        try:
            yield self
        finally:
            tasks = [placing, *self._ends]
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._runner.cleanup()
            for error in ended:
                if isinstance(error, Exception):
                    raise error

    def queue(self, service: str) -> CallerQueue:
        """Return the callers of a service."""
        return self._queues[service]

    async def call(self, service: str, stay_s: float) -> None:
        """Add a caller that stays `stay_s` seconds after it gets a slot."""
        queue = self._queues[service]
        queue.arrived += 1
        queue.waiting.append(stay_s)
        await self._place(service)
        self._changed.set()

    async def _register(self) -> None:
        """Create the Pod object. No scheduler binds it; its status says that it runs."""
        name = "fake-gateway"
        labels = {
            "app.kubernetes.io/name": "avatar-operator",
            "app.kubernetes.io/component": "gateway",
        }
        container = {"name": "gateway", "image": "hollow-pod"}
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"schedulerName": "nobody", "containers": [container]},
        }
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        await self._api.post(path, body)
        status = {"phase": "Running", "podIP": self._address, "podIPs": [{"ip": self._address}]}
        await self._api.merge(f"{path}/{name}/status", {"status": status})

    async def _place_forever(self) -> None:
        """Find slots for waiting callers when pods start."""
        while True:
            await asyncio.sleep(0.05)
            for service, queue in list(self._queues.items()):
                if queue.waiting:
                    await self._place(service)

    async def _place(self, service: str) -> None:
        queue = self._queues[service]
        while queue.waiting and (hollow_pod := self._fullest(service)) is not None:
            stay_s = queue.waiting.popleft()
            queue.sessions += 1
            await self._hollow_nodes.set_sessions(hollow_pod, hollow_pod.sessions + 1)
            task = asyncio.create_task(self._stay(queue, hollow_pod, stay_s), name="session")
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
            self._changed.set()

    def _fullest(self, service: str) -> HollowPod | None:
        namespace = service.partition("/")[0]
        room = [
            hollow_pod
            for hollow_pod in self._hollow_nodes.of(namespace)
            if not hollow_pod.draining and hollow_pod.sessions < hollow_pods.CAPACITY
        ]
        return max(room, key=lambda hollow_pod: hollow_pod.sessions, default=None)

    async def _stay(self, queue: CallerQueue, hollow_pod: HollowPod, stay_s: float) -> None:
        await asyncio.sleep(stay_s)
        queue.sessions -= 1
        await self._hollow_nodes.set_sessions(hollow_pod, hollow_pod.sessions - 1)
        self._changed.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            self._changed.clear()
            written_at = time.monotonic()
            if not self.silent:
                try:
                    await response.write(self._document())
                except ConnectionError:
                    return response
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._changed.wait()
            await asyncio.sleep(max(0.0, written_at + SPACING_S - time.monotonic()))

    def _document(self) -> bytes:
        services = {
            name: {
                "sessions": queue.sessions,
                "waiting": len(queue.waiting),
                "arrivals_total": queue.arrived,
            }
            for name, queue in self._queues.items()
        }
        return json.dumps({"pod": "fake-gateway", "services": services}).encode() + b"\n"
