"""Changes services under API faults, seed by seed, and compares how it ends with a clean run.

One control plane, one operator process behind the fault proxy, one namespace for each seed. The
operator, the API server, the scheduler and the garbage collector are real; nodes and runtime pods
are puppets (`localcluster.fakes.hollow_pods`) whose sessions the scenario begins and ends.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.controlplane import kubeapi
from localcluster.fakes.hollow_pods import Stage
from localcluster.faults.proxy import FaultyProxy, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE: Final = "subject"
AT_ONCE: Final = 10
NODES: Final = 12
STEP_S: Final = 90.0
QUIET_S: Final = 2.5
"""Without any write for so long, a service is at rest: it tells numbers of sessions each second."""

_HASH: Final = "avatar.musetalk.io/spec-hash"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Specs that a service goes through, and the sessions that its first pods get before."""

    specs: tuple[Mapping[str, Any], ...]
    sessions: tuple[int, ...]

    @property
    def most(self) -> int:
        return max(int(spec["replicas"]) for spec in self.specs)


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "shrink": Scenario(({"replicas": 3}, {"replicas": 1}), (2, 1, 0)),
    "roll": Scenario(({"replicas": 2}, {"replicas": 2, "objective": "throughput"}), (2, 0)),
    "grow": Scenario(({"replicas": 1}, {"replicas": 4}), (1,)),
    "empty": Scenario(({"replicas": 2}, {"replicas": 0}), (1, 1)),
    "return": Scenario(({"replicas": 2}, {"replicas": 0}, {"replicas": 2}), (1, 1)),
}


@dataclass(slots=True)
class Outcome:
    """How a seed ended."""

    seed: int | None
    """None: without faults."""
    scenario: str
    seconds: float = 0.0
    end: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """How a campaign ended."""

    outcomes: list[Outcome] = field(default_factory=list)
    injected: collections.Counter[str] = field(default_factory=collections.Counter)
    requests: int = 0
    last_words: list[str] = field(default_factory=list)
    """Of the operator's log, each time that it ended by itself."""
    sessions_cut: int = 0
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        return [
            f"seed {outcome.seed} ({outcome.scenario}): {problem}"
            for outcome in self.outcomes
            for problem in outcome.problems
        ]

    def summary(self) -> str:
        """Return the figures in a few lines."""
        seeds = [outcome for outcome in self.outcomes if outcome.seed is not None]
        return (
            f"{len(seeds)} seeds in {self.seconds:.0f} s, {len(self.problems)} problems, "
            f"{self.requests} requests, {self.injected.total()} faults "
            f"{dict(sorted(self.injected.items()))}, operator restarts {len(self.last_words)}"
        )


class Campaign:
    """The running world: control plane, puppets, proxy and operator."""

    def __init__(self, api: kubeapi.Api, proxy: FaultyProxy, nodes: int = NODES) -> None:
        self._api = api
        self._changed = asyncio.Condition()
        self._created: dict[str, set[str]] = collections.defaultdict(set)
        self._peak: dict[str, int] = collections.defaultdict(int)
        self.proxy = proxy
        self.stage = Stage(api, nodes)
        self.pods = kubeapi.Mirror(api, "/api/v1/pods", self._changed, self._see)
        self.services = kubeapi.Mirror(api, f"{GROUP}/avatarservices", self._changed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Campaign]:
        async with self.stage.running(), self.pods.running(), self.services.running():
            yield self

    async def run(self, seeds: Iterable[int]) -> list[Outcome]:
        """Run each scenario without faults, then all seeds, some at once."""
        clean = await asyncio.gather(*(self._one(None, name) for name in SCENARIOS))
        expected = {outcome.scenario: outcome for outcome in clean}
        slots = asyncio.Semaphore(AT_ONCE)

        async def bounded(seed: int) -> Outcome:
            async with slots:
                self.proxy.sow(seed)
                name = list(SCENARIOS)[seed % len(SCENARIOS)]
                outcome = await self._one(seed, name)
                wanted = expected[name].end
                if not outcome.problems and outcome.end != wanted:
                    outcome.problems.append(f"ended as {outcome.end}, a clean run as {wanted}")
                return outcome

        faulted = await asyncio.gather(*(bounded(seed) for seed in seeds))
        self.proxy.sow(None)
        return [*clean, *faulted]

    async def _one(self, seed: int | None, name: str) -> Outcome:
        namespace = f"clean-{name}" if seed is None else f"seed-{seed}"
        outcome = Outcome(seed, name)
        started = time.monotonic()
        if seed is not None:
            self.proxy.seeds[namespace] = seed
        try:
            await self._api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
            outcome.end = await self._play(SCENARIOS[name], namespace)
        except TimeoutError as error:
            outcome.problems.append(str(error))
        outcome.seconds = time.monotonic() - started
        outcome.problems += [
            f"pod {puppet.name} was deleted with {puppet.sessions} sessions"
            for puppet in self.stage.cut
            if puppet.namespace == namespace
        ]
        await self._api.delete(f"/api/v1/namespaces/{namespace}")
        self.proxy.forget(namespace)
        return outcome

    async def _play(self, scenario: Scenario, namespace: str) -> dict[str, object]:
        path = f"{GROUP}/namespaces/{namespace}/avatarservices"
        first, *later = scenario.specs
        body = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "AvatarService"}
        await self._api.post(path, {**body, "metadata": {"name": SERVICE}, "spec": first})
        await self._until(namespace, lambda: self._settled(namespace, first), "first settled")
        puppets = self.stage.of(namespace)
        for puppet, sessions in zip(puppets, scenario.sessions, strict=False):
            await self.stage.set_sessions(puppet, sessions)
        total = sum(scenario.sessions)
        await self._until(
            namespace, lambda: self._status(namespace).get("sessions") == total, "sessions counted"
        )
        for spec in later:
            await self._api.merge(f"{path}/{SERVICE}", {"spec": dict(spec)})
            await self._until(namespace, lambda s=spec: self._held(namespace, s), f"went to {spec}")
        for puppet in puppets:
            await self.stage.set_sessions(puppet, 0)
        last = scenario.specs[-1]
        await self._until(namespace, lambda: self._settled(namespace, last), "settled at the end")
        await self._until_quiet(namespace)
        return {
            **_normal(self._status(namespace)),
            "created": len(self._created.pop(namespace)),
            "peak": self._peak.pop(namespace),
        }

    async def _until(self, namespace: str, holds: Any, what: str) -> None:
        def told() -> str:
            pods = [
                f"{pod['metadata']['name']} {'leaving' if _leaves(pod) else 'live'}"
                for pod in self.pods.of(namespace)
            ]
            puppets = [(p.name, p.sessions, p.draining) for p in self.stage.of(namespace)]
            return f"{what}; last seen: {self._status(namespace)}, pods {pods}, puppets {puppets}"

        await kubeapi.until(self._changed, holds, told, STEP_S)

    async def _until_quiet(self, namespace: str) -> None:
        """Wait until the operator has written nothing here for a while."""
        deadline = time.monotonic() + STEP_S / 3
        while True:
            writes = self.proxy.writes[namespace]
            rest_s = QUIET_S - (time.monotonic() - writes[-1].at)
            if rest_s <= 0:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"still writes at rest, last {writes[-3:]}")
            await asyncio.sleep(rest_s)

    def _see(self, kind: str, pod: Body) -> None:
        namespace = pod["metadata"]["namespace"]
        if kind == "ADDED":
            self._created[namespace].add(pod["metadata"]["uid"])
        hashes = collections.Counter(
            pod["metadata"]["labels"].get(_HASH)
            for pod in self.pods.of(namespace)
            if not _leaves(pod)
        )
        self._peak[namespace] = max(self._peak[namespace], *hashes.values(), 0)
        self.stage.see(kind, pod)

    def _status(self, namespace: str) -> dict[str, Any]:
        service = self.services.objects.get((namespace, SERVICE), {})
        return dict(service.get("status", {}))

    def _held(self, namespace: str, spec: Mapping[str, Any]) -> bool:
        """Whether all is done that can be done while sessions live."""
        service = self.services.objects[namespace, SERVICE]
        status = self._status(namespace)
        live = {p["metadata"]["uid"] for p in self.pods.of(namespace) if not _leaves(p)}
        puppets = {uid: self.stage.puppets[uid] for uid in live if uid in self.stage.puppets}
        staying = [puppet for puppet in puppets.values() if not puppet.draining]
        return bool(
            status.get("observedGeneration") == service["metadata"]["generation"]
            and status["desiredReplicas"] == spec["replicas"] == len(staying)
            and len(puppets) == len(live)
            and all(puppet.sessions for puppet in puppets.values() if puppet.draining)
        )

    def _settled(self, namespace: str, spec: Mapping[str, Any]) -> bool:
        """Whether the service has come to rest as its spec wants it, by its own word."""
        if not self.services.objects.get((namespace, SERVICE), {}).get("status"):
            return False
        status = self._status(namespace)
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        return bool(
            self._held(namespace, spec)
            and status["replicas"] == status["readyReplicas"] == spec["replicas"]
            and status["sessions"] == 0
            and conditions["Ready"] == "True"
            and conditions["Progressing"] == conditions["Draining"] == "False"
            and conditions["Degraded"] == "False"
            and conditions["StateFresh"] == "True"
            and len(self.pods.of(namespace)) == spec["replicas"]
        )


async def run(cluster: ControlPlane, seeds: Iterable[int]) -> Report:
    """Run a campaign on a control plane of its own, without nodes."""
    started = time.monotonic()
    report = Report()
    await operator_process.install_chart(cluster)
    ca: Path = cluster.ca
    async with kubeapi.connected(cluster) as api, serving(cluster.server, ca) as proxy:
        path = await operator_process.kubeconfig(cluster, "faulty", proxy.url)
        async with (
            operator_process.operating(cluster, path) as operator,
            Campaign(api, proxy).running() as campaign,
        ):
            report.outcomes = await campaign.run(seeds)
            report.last_words = operator.last_words
            report.sessions_cut = sum(puppet.sessions for puppet in campaign.stage.cut)
        report.injected = proxy.injected
        report.requests = proxy.requests
    report.seconds = time.monotonic() - started
    return report


def _leaves(pod: Body) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _normal(status: Mapping[str, Any]) -> dict[str, object]:
    """Return what two runs must agree on: all but times, names of pods, and the history."""
    kept = ("desiredReplicas", "replicas", "readyReplicas", "sessions", "capacity", "state")
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    return {**{key: status[key] for key in kept}, "conditions": conditions, "gpu": status["gpu"]}
