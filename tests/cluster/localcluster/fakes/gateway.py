"""A gateway without a process: callers come, find a slot on puppets or wait for one, and go.

What is real: its Pod object and its state stream, on a loopback address of its own. It fills the
fullest pod that has room, as the gateway does.
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
    from localcluster.fakes.hollow_pods import Puppet, Stage

EVERY_S: Final = 0.5
SPACING_S: Final = 0.1  # at most ten lines a second, as the contract says
_networks: Final = itertools.count(os.getpid())


@dataclass(slots=True)
class Line:
    """The callers of one service."""

    arrived: int = 0
    sessions: int = 0
    waiting: collections.deque[float] = field(default_factory=collections.deque)
    """How long each who waits will stay, in seconds, first come first."""

    @property
    def demand(self) -> int:
        """Callers who have a slot or want one."""
        return self.sessions + len(self.waiting)


class PuppetGateway:
    """The one gateway of a stage. Services are called `NAMESPACE/NAME`, one in a namespace."""

    def __init__(self, api: Api, stage: Stage, namespace: str) -> None:
        self._api = api
        self._stage = stage
        self._namespace = namespace
        self._lines: dict[str, Line] = collections.defaultdict(Line)
        self._changed = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()
        self._address = f"127.{20 + next(_networks) % 200}.250.1"
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        self.mute = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PuppetGateway]:
        """Be there until the block ends."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, hollow_pods.ADMIN_PORT).start()
        await self._register()
        placing = asyncio.create_task(self._place_forever(), name="placing of callers")
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

    def line(self, service: str) -> Line:
        """Return the callers of a service."""
        return self._lines[service]

    async def call(self, service: str, stay_s: float) -> None:
        """Let a caller come who stays for a while once it has a slot."""
        line = self._lines[service]
        line.arrived += 1
        line.waiting.append(stay_s)
        await self._place(service)
        self._changed.set()

    async def _register(self) -> None:
        """Make the pod; no scheduler takes it, and its status says that it runs."""
        name = "puppet-gateway"
        labels = {
            "app.kubernetes.io/name": "avatar-operator",
            "app.kubernetes.io/component": "gateway",
        }
        container = {"name": "gateway", "image": "puppet"}
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"schedulerName": "nobody", "containers": [container]},
        }
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        await self._api.post(path, body)
        status = {"phase": "Running", "podIP": self._address, "podIPs": [{"ip": self._address}]}
        await self._api.merge(f"{path}/{name}/status", {"status": status})

    async def _place_forever(self) -> None:
        """Find slots for those who wait, as pods come up."""
        while True:
            await asyncio.sleep(0.05)
            for service, line in list(self._lines.items()):
                if line.waiting:
                    await self._place(service)

    async def _place(self, service: str) -> None:
        line = self._lines[service]
        while line.waiting and (puppet := self._fullest(service)) is not None:
            stay_s = line.waiting.popleft()
            line.sessions += 1
            await self._stage.set_sessions(puppet, puppet.sessions + 1)
            task = asyncio.create_task(self._stay(line, puppet, stay_s), name="a session")
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
            self._changed.set()

    def _fullest(self, service: str) -> Puppet | None:
        namespace = service.partition("/")[0]
        room = [
            puppet
            for puppet in self._stage.of(namespace)
            if not puppet.draining and puppet.sessions < hollow_pods.CAPACITY
        ]
        return max(room, key=lambda puppet: puppet.sessions, default=None)

    async def _stay(self, line: Line, puppet: Puppet, stay_s: float) -> None:
        await asyncio.sleep(stay_s)
        line.sessions -= 1
        await self._stage.set_sessions(puppet, puppet.sessions - 1)
        self._changed.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            self._changed.clear()
            written_at = time.monotonic()
            if not self.mute:
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
                "sessions": line.sessions,
                "waiting": len(line.waiting),
                "arrivals_total": line.arrived,
            }
            for name, line in self._lines.items()
        }
        return json.dumps({"pod": "puppet-gateway", "services": services}).encode() + b"\n"
