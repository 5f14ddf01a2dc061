"""Kills the leading operator repeatedly while it works, and measures the takeover by the other one.

There are two operator processes with the operator's own account, one control plane, and hollow
nodes and pods (`localcluster.fakes.hollow_pods`). Before each kill, the number of replicas changes.
The kill follows within 0.2 s, so that many leaders die in the middle of their actions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.bench import record
from localcluster.controlplane import kubeapi
from localcluster.fakes.hollow_pods import HollowNodes
from localcluster.lease_log import LEASES, LeaseLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body
    from localcluster.operator_process import OperatorProcess

SERVICES: Final = "/apis/avatar.musetalk.io/v1alpha1/namespaces/default/avatarservices"
SERVICE: Final = "subject"
NODES: Final = 2
MOST: Final = 4  # replicas
SESSIONS: Final = 3  # of the pod that must survive every change of the leader
LATEST_KILL_S: Final = 0.2  # after the change of the replicas
STEP_S: Final = 60.0


@dataclass(slots=True)
class Report:
    """The measurements of all kills."""

    handed_s: list[float] = field(default_factory=list)
    """Seconds from SIGTERM until the other process held the Lease."""
    elected_s: list[float] = field(default_factory=list)
    """Seconds from the kill until the other process held the Lease."""
    acted_s: list[float] = field(default_factory=list)
    """Seconds from the kill until the unfinished change of the killed leader was done."""
    epochs: int = 0
    surplus: int = 0
    """Pods in excess of the desired number at any moment."""
    orphans: int = 0
    """Pods that remained after their service was deleted."""
    cut: int = 0
    """Sessions that the deletion of a pod ended."""

    def figures(self) -> dict[str, object]:
        """Return the measurements by name."""
        return {
            "handed_s": record.figures(self.handed_s),
            "elected_s": record.figures(self.elected_s),
            "acted_s": record.figures(self.acted_s),
            "epochs": self.epochs,
            "surplus_pods": self.surplus,
            "orphans": self.orphans,
            "sessions_cut": self.cut,
        }


class Pair:
    """Two operators, and mirrors of the objects that they change."""

    def __init__(self, api: kubeapi.Api, operators: tuple[OperatorProcess, ...]) -> None:
        self._api = api
        self._changed = asyncio.Condition()
        self._wanted = 0
        self.operators = operators
        self.report = Report()
        self.hollow_nodes = HollowNodes(api, NODES)
        pods = "/api/v1/namespaces/default/pods"
        self.pods = kubeapi.Mirror(api, pods, self._changed, self._on_pod_event)
        self.services = kubeapi.Mirror(api, SERVICES, self._changed)
        self.lease_log = LeaseLog(self._changed)
        self.leases = kubeapi.Mirror(api, LEASES, self._changed, self.lease_log.observe)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Pair]:
        """Run the mirrors, and wait until a service with one pod is Ready and has sessions."""
        async with (
            self.hollow_nodes.running(),
            self.pods.running(),
            self.services.running(),
            self.leases.running(),
        ):
            body = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "AvatarService"}
            self._wanted = 1
            spec = {"replicas": 1}
            await self._api.post(SERVICES, {**body, "metadata": {"name": SERVICE}, "spec": spec})
            await self.settled(1)
            (hollow_pod,) = self.hollow_nodes.of("default")
            await self.hollow_nodes.set_sessions(hollow_pod, SESSIONS)
            yield self

    @property
    def lease(self) -> dict[str, Any]:
        """Return the spec of the Lease."""
        found = self.leases.objects.get((operator_process.SYSTEM, operator_process.LEASE), {})
        return dict(found.get("spec") or {})

    @property
    def holder(self) -> str:
        return str(self.lease.get("holderIdentity", ""))

    @property
    def leader(self) -> OperatorProcess:
        """Return the process that holds the Lease."""
        name = self.holder.rpartition("_")[0]
        (found,) = (each for each in self.operators if each.name == name)
        return found

    async def scale(self, replicas: int) -> None:
        """Change the number of replicas."""
        self._wanted = max(self._wanted, replicas)
        await self._api.merge(f"{SERVICES}/{SERVICE}", {"spec": {"replicas": replicas}})

    async def settled(self, replicas: int) -> None:
        """Wait until the desired number of pods exists and the status of the service says so."""

        def holds() -> bool:
            service = self.services.objects.get(("default", SERVICE))
            status = service.get("status", {}) if service is not None else {}
            return bool(
                service is not None
                and len(self.pods.objects) == replicas == status.get("readyReplicas")
                and status.get("observedGeneration") == service["metadata"]["generation"]
            )

        await self.until(holds, f"{replicas} replicas")
        self._wanted = replicas

    async def elected(self, but: str) -> None:
        """Wait until a process other than `before` holds the Lease."""
        await self.until(lambda: self.holder not in ("", but), f"another leader than {but}")

    async def until(self, holds: Any, what: str) -> None:
        def last_seen() -> str:
            service = self.services.objects.get(("default", SERVICE), {})
            pods = sorted(name for _, name in self.pods.objects)
            return f"{what}; last seen: {self.lease}, {pods}, {service.get('status')}"

        await kubeapi.until(self._changed, holds, last_seen, STEP_S)

    async def hand_over(self) -> None:
        """Stop the leader, and wait until both processes are ready again."""
        leader, holder = self.leader, self.holder
        process = leader.process
        assert process is not None
        process.terminate()
        stopped_at = time.monotonic()
        await self.elected(but=holder)
        self.report.handed_s.append(time.monotonic() - stopped_at)
        if await process.wait():
            raise RuntimeError(f"{leader.name} ended with {process.returncode}, see {leader.log}")
        await self.both_ready()

    async def both_ready(self) -> None:
        """Wait until one process leads and the other one is on standby."""
        await asyncio.gather(*(each.until_ready() for each in self.operators))

    async def kill(self, chance: random.Random) -> None:
        """Change the replicas, kill the leader in the middle, and wait until the change is done."""
        replicas = chance.choice([n for n in range(1, MOST + 1) if n != len(self.pods.objects)])
        leader, holder = self.leader, self.holder
        await self.scale(replicas)
        await asyncio.sleep(chance.uniform(0, LATEST_KILL_S))
        os.kill(leader.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        await self.elected(but=holder)
        self.report.elected_s.append(time.monotonic() - killed_at)
        await self.settled(replicas)
        self.report.acted_s.append(time.monotonic() - killed_at)
        await self.both_ready()

    async def leave(self) -> None:
        """Delete the service, and count the pods that remain."""
        for hollow_pod in self.hollow_nodes.of("default"):
            await self.hollow_nodes.set_sessions(hollow_pod, 0)
        self.report.epochs = int(self.lease["leaseTransitions"])
        await self._api.delete(f"{SERVICES}/{SERVICE}")
        with contextlib.suppress(TimeoutError):
            await self.until(lambda: not self.pods.objects, "no pods")
        self.report.orphans = len(self.pods.objects)
        self.report.cut = sum(
            hollow_pod.sessions for hollow_pod in self.hollow_nodes.deleted_with_sessions
        )

    def _on_pod_event(self, kind: str, pod: Body) -> None:
        self.hollow_nodes.on_pod_event(kind, pod)
        live = [p for p in self.pods.objects.values() if "deletionTimestamp" not in p["metadata"]]
        self.report.surplus = max(self.report.surplus, len(live) - self._wanted)


@contextlib.asynccontextmanager
async def operating(cluster: ControlPlane) -> AsyncIterator[Pair]:
    """Run two operators on a control plane without nodes."""
    await operator_process.install_chart(cluster)
    path = await operator_process.kubeconfig(cluster, "operators", cluster.server)
    async with (
        kubeapi.connected(cluster) as api,
        operator_process.operating(cluster, path, name="first") as first,
        operator_process.operating(cluster, path, name="second") as second,
        Pair(api, (first, second)).running() as pair,
    ):
        yield pair


async def run(cluster: ControlPlane, kills: int, stops: int = 0, seed: int = 0) -> Report:
    """Stop `stops` leaders one after another, then kill `kills` leaders."""
    chance = random.Random(seed)
    async with operating(cluster) as pair:
        for _ in range(stops):
            await pair.hand_over()
        for _ in range(kills):
            await pair.kill(chance)
        await pair.leave()
        return pair.report
