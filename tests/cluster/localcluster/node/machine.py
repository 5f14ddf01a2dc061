"""Runs all process nodes of a cluster in one process, and switches single nodes off and on."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from .errors import ApiError, NodeError
from .events import Recorder
from .kubelet import Kubelet
from .process import Runner, find_bwrap, kill_leftovers
from .server import Logs, claim_network
from .setting import Host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .api import Api
    from .nodes_file import NodesFile
    from .pod import Pod

_log = logging.getLogger(__name__)
REPOSITORY: Final = Path(__file__).resolve().parents[4]
POLL_S: Final = 0.1
NOT_READY: Final = "node.kubernetes.io/not-ready"
READY_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Switch:
    """The switch of a node: one file with the desired state and one with the actual state."""

    folder: Path

    @property
    def wanted_up(self) -> bool:
        """Return the desired state."""
        return not (self.folder / "down").exists()

    @property
    def is_up(self) -> bool:
        """Return the actual state."""
        return (self.folder / "up").exists()

    def ask(self, up: bool) -> None:
        """Set the desired state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if up:
            (self.folder / "down").unlink(missing_ok=True)
        else:
            (self.folder / "down").touch()

    async def wanted(self, up: bool) -> None:
        """Wait until a state is desired, by polling the file, which any process can write."""
        while True:
            if self.wanted_up is up:
                return
            await asyncio.sleep(POLL_S)

    def tell(self, up: bool) -> None:
        """Set the actual state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if up:
            (self.folder / "up").touch()
        else:
            (self.folder / "up").unlink(missing_ok=True)


def switch(state: Path, node: str) -> Switch:
    """Return the switch of a node below a state folder."""
    return Switch(state / "nodes" / node)


class Machine:
    """All nodes of one nodes file."""

    def __init__(self, api: Api, file: NodesFile, state: Path, port: int) -> None:
        self._api = api
        self._file = file
        self._state = state
        self._port = port
        self._recorder = Recorder(api)
        self._runner = Runner(find_bwrap(), mark=str(state))
        self._kubelets: dict[str, Kubelet] = {}

    @property
    def way(self) -> str:
        """How processes see their mounts: `bwrap` or `rewrite`."""
        return self._runner.way

    async def run(self, ready: asyncio.Event) -> None:
        """Serve until cancelled; sets `ready` once pods can be scheduled on every node."""
        if count := kill_leftovers(self._runner.mark):
            _log.warning("killed processes of a previous run count=%d", count)
        for spec in self._file.nodes:
            switch(self._state, spec.name).tell(up=False)
        server = web.AppRunner(Logs(self._find).app, access_log=None, shutdown_timeout=0.5)
        await server.setup()
        try:
            nodes = self._file.nodes
            addresses = await claim_network(server, len(nodes), self._port, self._state)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._recorder.run(), name="events")
                for spec, ip in zip(nodes, addresses, strict=True):
                    host = Host(
                        spec=spec,
                        ip=ip,
                        file=self._file,
                        api=self._api,
                        recorder=self._recorder,
                        runner=self._runner,
                        folder=self._state / "pods",
                        repository=REPOSITORY,
                        search_path=search_path(),
                    )
                    group.create_task(self._life(host), name=spec.name)
                await self._wait_until_ready(spec.name for spec in nodes)
                ready.set()
        finally:
            await server.cleanup()

    async def _life(self, host: Host) -> None:
        """Run or kill a node as its switch says."""
        button = switch(self._state, host.spec.name)
        while True:
            await button.wanted(up=True)
            kubelet = self._kubelets[host.spec.name] = Kubelet(host, self._port)
            async with asyncio.TaskGroup() as group:
                life = group.create_task(kubelet.run(), name=f"kubelet {host.spec.name}")
                button.tell(up=True)
                await button.wanted(up=False)
                _log.warning("node switched off node=%s", host.spec.name)
                kubelet.die()
                life.cancel()
            del self._kubelets[host.spec.name]
            button.tell(up=False)

    def _find(self, namespace: str, name: str) -> Pod | None:
        found = (kubelet.find(namespace, name) for kubelet in self._kubelets.values())
        return next((pod for pod in found if pod), None)

    async def _wait_until_ready(self, names: Iterable[str]) -> None:
        """Wait until the control plane has removed the not-ready taint from every node."""
        waiting = set(names)
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while waiting:
                    try:
                        waiting = await self._unready(waiting)
                    except ApiError as error:
                        _log.info("nodes not read error=%s", error)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            text = f"still {NOT_READY}: {', '.join(sorted(waiting))}"
            raise NodeError(f"{text} (does kube-controller-manager run?)") from None

    async def _unready(self, names: set[str]) -> set[str]:
        listed = (await self._api.get("/api/v1/nodes"))["items"]
        ready = {node["metadata"]["name"] for node in listed if _is_ready(node)}
        return {name for name in names - ready if switch(self._state, name).wanted_up}


def _is_ready(node: dict[str, object]) -> bool:
    spec, status = node.get("spec"), node.get("status")
    assert isinstance(spec, dict)
    assert isinstance(status, dict)
    tainted = any(taint["key"] == NOT_READY for taint in spec.get("taints") or ())
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or ()}
    return conditions.get("Ready") == "True" and not tainted


def search_path() -> str:
    """Return PATH for all processes; it starts with the current environment."""
    own = os.path.normpath(Path(sys.executable).parent)
    system = os.environ.get("PATH") or os.defpath
    return os.pathsep.join([own, *(part for part in system.split(os.pathsep) if part != own)])
