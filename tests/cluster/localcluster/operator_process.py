"""The operator as a local process that is restarted when it ends, as its Deployment does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from localcluster import paths, waiting
from localcluster.controlplane import kubeconfigs, ports, processes
from localcluster.controlplane.certificates import Pki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from localcluster.controlplane.cluster import ControlPlane

SYSTEM: Final = "avatar-system"
ACCOUNT: Final = "avatar-avatar-operator-operator"
USER: Final = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
LEASE: Final = "avatar-avatar-operator-operator"
RESTART_S: Final = 0.5
LAST_WORDS: Final = 60  # lines: a traceback and the lines before it
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a process has used."""

    cpu_s: float
    rss_mib: float
    peak_rss_mib: float


async def install_chart(
    cluster: ControlPlane, namespaces: tuple[str, ...] = (), system: str = SYSTEM
) -> None:
    """Install the chart for its CRDs, accounts, permissions and profiles; no node runs its pods.

    Its permissions cover `namespaces`, which must exist, or the whole cluster. The release is in
    the namespace `system`.
    """
    chart = paths.REPOSITORY / "charts" / "avatar-operator"
    values = json.dumps({"operator": {"watchNamespaces": namespaces}, "cleanup": {"notice": False}})
    await cluster.helm(
        *("install", "avatar", chart, "-n", system, "--create-namespace", "--values", "-"),
        stdin=values,
    )


async def kubeconfig(cluster: ControlPlane, name: str, server: str, system: str = SYSTEM) -> Path:
    """Write a kubeconfig of the operator's own account for a server, which may be a proxy."""
    token = await cluster.kubectl("create", "token", "-n", system, ACCOUNT, "--duration=24h")
    user = kubeconfigs.token_user(token.strip())
    path = cluster.layout.kubeconfig(name)
    return kubeconfigs.write(path, server, Pki(cluster.layout.pki).ca, user, system)


class OperatorProcess:
    """A running `avatar-operator run`, or another command that replaces it."""

    def __init__(self, log: Path, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._argv = argv
        self._environment = environment
        self.log = log
        self.name = environment["AVATAR_POD"]
        self.health = environment["AVATAR_HEALTH_LISTEN"]
        self.restarts = 0
        self.log_tails: list[
            str
        ] = []  # the end of the log, for each time that the process ended by itself
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def usage(self) -> Usage:
        """Return the resources that the current process has used."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return Usage(
            cpu_s=(int(stat[11]) + int(stat[12])) / _TICKS,
            rss_mib=int(stat[21]) * _PAGE / 2**20,
            peak_rss_mib=int(peak.split()[1]) / 2**10,
        )

    async def until_ready(self, within_s: float = 120) -> None:
        """Wait until it has listed everything and is the leader or on standby."""
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                try:
                    async with session.get(f"http://{self.health}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await waiting.until(ready, bool, f"{self.name} is ready (see {self.log})", within_s)

    async def run(self) -> None:
        """Run it, and restart it when it ends, until cancelled."""
        with self.log.open("ab") as log:
            while True:
                self.process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    env=dict(self._environment),
                    stdout=log,
                    stderr=log,
                    preexec_fn=processes.die_with_parent,
                )
                try:
                    await self.process.wait()
                except asyncio.CancelledError:
                    await _end(self.process)
                    raise
                self.restarts += 1
                self.log_tails.append(paths.tail(self.log, LAST_WORDS))
                await asyncio.sleep(RESTART_S)


@contextlib.asynccontextmanager
async def started(
    cluster: ControlPlane, path: Path, *command: str, **options: Any
) -> AsyncIterator[OperatorProcess]:
    """Run like `started_at`; the log is in the log folder of the control plane."""
    async with started_at(cluster.layout.logs, path, *command, **options) as operator:
        yield operator


@contextlib.asynccontextmanager
async def started_at(
    logs: Path,
    path: Path,
    module: str = "avatar_operator",
    *arguments: str,
    name: str = "bench",
    namespaces: tuple[str, ...] = (),
    system: str = SYSTEM,
    key_refresh_s: float = 30.0,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[OperatorProcess]:
    """Run the operator with a kubeconfig.

    `name` distinguishes replicas in the Lease and in the user agent. The operator serves
    `namespaces`, or all namespaces. `settings` are further environment variables.
    """
    health, metrics = ports.find_free(2)
    environment: dict[str, Any] = {
        **os.environ,
        "KUBECONFIG": str(path),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(paths.MODULE), os.environ.get("PYTHONPATH")))
        ),
        "AVATAR_NAMESPACE": system,
        "AVATAR_CONTROL_SECRET": "avatar-avatar-operator-control",
        "AVATAR_GATEWAY_SECRET": "avatar-avatar-operator-gateway-key",
        "AVATAR_KEY_REFRESH_S": f"{key_refresh_s:g}",
        "AVATAR_LEASE": LEASE,
        "AVATAR_RUNTIME_IMAGE": "avatar-musetalk/runtime",
        "AVATAR_POD": name,
        "AVATAR_WATCH_NAMESPACES": ",".join(namespaces),
        "AVATAR_HEALTH_LISTEN": f"127.0.0.1:{health}",
        "AVATAR_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "AVATAR_METRICS_OPEN": "true",
        "AVATAR_LOG_FORMAT": "text",
        **(settings or {}),
    }
    argv = (sys.executable, "-m", module, *(arguments or ("run",)))
    log = logs / f"{module}.{name}.log"
    log.touch()  # the file exists when the block starts
    operator = OperatorProcess(log, argv, environment)
    running = asyncio.create_task(operator.run(), name=module)
    try:
        yield operator
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def operating(
    cluster: ControlPlane, path: Path, *command: str, **options: Any
) -> AsyncIterator[OperatorProcess]:
    """Run like `started`; the operator has listed everything when the block starts."""
    async with started(cluster, path, *command, **options) as operator:
        await operator.until_ready()
        yield operator


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
