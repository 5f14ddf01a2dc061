"""Runs a control plane: `async with controlplane.running(folder) as cp`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import ssl
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import httpx

from localcluster import errors, paths, waiting
from localcluster.controlplane import (
    build,
    certificates,
    components,
    folder,
    kubeconfigs,
    ports,
    processes,
    progress,
    supervision,
    supervisor,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

READY_S: Final = 120.0  # it takes seconds on an idle machine, and a minute on a busy one
NODE_GRACE_S: Final = 10.0
COMPONENT_GRACE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane. Usable from any event loop and any process."""

    layout: paths.Layout
    ports: components.Ports
    supervisor: processes.Identity
    start_seconds: float
    """Seconds from the first process until ready, without the build of the binaries."""

    @property
    def server(self) -> str:
        return self.ports.server

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the administrator; tests use `service_account_kubeconfig`."""
        return self.layout.admin_kubeconfig

    @property
    def ca(self) -> Path:
        return certificates.Pki(self.layout.pki).ca

    @property
    def bin_dir(self) -> Path:
        return self.layout.bin

    @property
    def audit_log(self) -> Path:
        """One JSON line per write to the API; see `localcluster.controlplane.audit`."""
        return self.layout.audit_log

    def environment(self) -> dict[str, str]:
        """Return an environment in which kubectl and helm use this cluster and do not use $HOME."""
        home = self.layout.home
        direct = f"127.0.0.0/8,localhost,{self.ports.api_address}"
        return {
            **os.environ,
            "PATH": f"{self.bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(home / "kube-cache"),
            "KUBERC": "off",
            "HELM_CACHE_HOME": str(home / "helm-cache"),
            "HELM_CONFIG_HOME": str(home / "helm-config"),
            "HELM_DATA_HOME": str(home / "helm-data"),
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    async def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Return the output of kubectl.

        Raises:
            CommandFailed: kubectl failed.
        """
        return await self.run("kubectl", *arguments, stdin=stdin)

    async def helm(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Return the output of helm.

        Raises:
            CommandFailed: helm failed.
        """
        return await self.run("helm", *arguments, stdin=stdin)

    async def run(self, tool: str, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run one of the built tools as the administrator.

        Raises:
            CommandFailed: the tool failed.
        """
        argv = [str(self.bin_dir / tool), *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, problems = await process.communicate(stdin.encode() if stdin else None)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            shown = (tool, *argv[1:])
            raise errors.CommandFailed(shown, process.returncode, problems.decode())
        return output.decode()

    async def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a new kubeconfig of a ServiceAccount that is valid for one day."""
        token = await self.kubectl("create", "token", "-n", namespace, name, "--duration=24h")
        path = self.layout.kubeconfig(f"{namespace}.{name}")
        user = kubeconfigs.token_user(token.strip())
        return kubeconfigs.write(path, self.server, self.ca, user, namespace)

    async def stop_component(self, name: str, *, kill: bool = False) -> None:
        """Stop a component (with `kill` by SIGKILL), and wait until it has ended."""
        await supervision.stop(self.layout, name, 0 if kill else COMPONENT_GRACE_S)

    async def start_component(self, name: str) -> None:
        """Start a stopped component and wait until it is ready."""
        skip = _size(self.layout.log(name))
        await supervision.restart(self.layout, name)
        await _Boot(self.layout, self.ports, (name,)).until_ready(name, skip)

    async def restart_component(self, name: str, *, kill: bool = False) -> None:
        """Stop and start a component, and wait until it is ready."""
        await self.stop_component(name, kill=kill)
        await self.start_component(name)


@contextlib.asynccontextmanager
async def running(
    state_dir: Path,
    *,
    nodes: Path | None = None,
    api_port: int | None = None,
    address: str = components.LOOPBACK,
    screen: build.Progress | None = None,
) -> AsyncIterator[ControlPlane]:
    """Run a control plane in `state_dir`, and process nodes if `nodes` is a nodes file.

    `address` is that of the API server; the other components listen on the loopback interface.
    Missing binaries are built first. All processes end with the context, and with this process in
    any case.

    Raises:
        LocalClusterError: a part of the cluster does not start.
    """
    layout = paths.Layout.of(state_dir)
    binaries = await build.ensure(screen or progress.Screen(sys.stderr), os.environ)
    folder.claim(layout)
    with folder.held(layout):
        chosen = replace(_choose_ports(api_port), api_address=address)
        folder.fill(layout, binaries, chosen, datetime.datetime.now(datetime.UTC))
        async with supervision.supervised(layout) as identity:
            state = folder.State(processes.identify(os.getpid()), identity, chosen)
            folder.write(layout, state)
            try:
                boot = _Boot(layout, chosen, components.ALL)
                start_s = await boot.run()
                if nodes is not None:
                    await boot.run_nodes(nodes)
                folder.write(layout, replace(state, start_s=start_s))
                yield ControlPlane(layout, chosen, identity, start_s)
            finally:
                folder.forget(layout)


def attach(state_dir: Path) -> ControlPlane:
    """Return the control plane that runs in `state_dir`.

    Raises:
        NotRunning: no cluster runs there.
    """
    layout = paths.Layout.of(state_dir)
    state = folder.read(layout)
    if state is None or state.start_s is None or not state.supervisor.is_alive():
        raise errors.NotRunning(layout.root)
    return ControlPlane(layout, state.ports, state.supervisor, state.start_s)


def _choose_ports(api_port: int | None) -> components.Ports:
    etcd, etcd_peer, api_server, controller_manager, scheduler = ports.find_free(5)
    if api_port is not None:
        api_server = ports.check_free(api_port)
    return components.Ports(etcd, etcd_peer, api_server, controller_manager, scheduler)


@dataclass(frozen=True, slots=True)
class _Boot:
    """Waits until components are ready, and fails as soon as one of them ends."""

    layout: paths.Layout
    ports: components.Ports
    watched: tuple[str, ...]

    async def run(self) -> float:
        """Start the control plane; return the seconds until it is ready."""
        started = time.monotonic()
        for name in (components.ETCD, components.API_SERVER):
            await supervision.start(self.layout, _spec(self.layout, self.ports, name))
        # The other components end if the API server is late.
        await self.until_ready(components.API_SERVER)
        for name in (components.CONTROLLER_MANAGER, components.SCHEDULER):
            await supervision.start(self.layout, _spec(self.layout, self.ports, name))
        for name in components.CONTROL_PLANE:
            await self.until_ready(name)
        # Pods are rejected until their namespace has its ServiceAccount.
        account = f"{self.ports.server}/api/v1/namespaces/default/serviceaccounts/default"
        await self._until_answers(components.CONTROLLER_MANAGER, account)
        return time.monotonic() - started

    async def run_nodes(self, nodes: Path) -> None:
        """Start the process nodes and wait until they are ready."""
        await supervision.start(self.layout, _node_spec(self.layout, nodes))
        await self.until_ready(components.PROCESS_NODE)

    async def until_ready(self, name: str, skip: int = 0) -> None:
        """Wait for a component; the first `skip` bytes of its log belong to earlier runs.

        Raises:
            ComponentFailed: a watched component ended, or this one is not ready in time.
        """
        if name == components.PROCESS_NODE:
            await self._until(name, lambda: _says_ready(self.layout.log(name), skip))
        else:
            await self._until_answers(name, self.ports.health_url(name))

    async def _until_answers(self, name: str, url: str) -> None:
        pki = certificates.Pki(self.layout.pki)
        context = ssl.create_default_context(cafile=pki.ca)
        context.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=5) as client:

            async def answers() -> bool:
                try:
                    return (await client.get(url)).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await self._until(name, answers)

    async def _until(self, name: str, holds: Callable[[], Awaitable[bool]]) -> None:
        async def holds_and_all_run() -> bool:
            if await holds():
                return True
            for other, status in (await supervision.status(self.layout)).items():
                if other in self.watched and status.exit_code is not None:
                    raise self._failed(other, f"ended with {status.exit_code}")
            return False

        try:
            await waiting.until(holds_and_all_run, bool, f"{name} is ready", READY_S)
        except TimeoutError as error:
            raise self._failed(name, f"was not ready after {READY_S:.0f} s") from error

    def _failed(self, name: str, what: str) -> errors.ComponentFailed:
        return errors.ComponentFailed(name, what, paths.tail(self.layout.log(name)))


def _spec(layout: paths.Layout, chosen: components.Ports, name: str) -> supervisor.Spec:
    return supervisor.Spec(
        name,
        components.arguments(name, layout, chosen),
        env={"HOME": str(layout.home), "PATH": os.defpath},
        log=str(layout.log(name)),
        grace_s=0,  # their data is deleted with them
    )


def _node_spec(layout: paths.Layout, nodes: Path) -> supervisor.Spec:
    name = components.PROCESS_NODE
    argv = (
        sys.executable, "-m", "localcluster.node",
        "--kubeconfig", str(layout.kubeconfig(name)),
        "--nodes", str(nodes.absolute()),
        "--state", str(layout.nodes),
    )  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(paths.MODULE), "PYTHONUNBUFFERED": "1"}
    return supervisor.Spec(name, argv, env, str(layout.log(name)), NODE_GRACE_S)


async def _says_ready(log: Path, skip: int) -> bool:
    """Return whether the log has the JSON line of the process node with `ready` true."""
    with log.open("rb") as file:
        file.seek(skip)
        lines = file.read().splitlines()
    for line in lines:
        if line.startswith(b"{"):
            with contextlib.suppress(ValueError):
                if json.loads(line).get("ready"):
                    return True
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
