"""Changes services under API faults for many seeds, and compares each result with a clean run.

There is one control plane, one operator process behind the fault proxy, and one namespace for each
seed. The operator, the API server, the scheduler and the garbage collector are real. Nodes and
runtime pods are hollow (`localcluster.fakes.hollow_pods`); the scenario sets their sessions.
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
from localcluster.fakes.hollow_pods import HollowNodes
from localcluster.faults.proxy import FaultProxy, serving

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
"""A service without a write for this time is at rest; session counts are written each second."""

_HASH: Final = "avatar.musetalk.io/spec-hash"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The specs that are applied to a service in turn, and the sessions of its first pods."""

    specs: tuple[Mapping[str, Any], ...]
    sessions: tuple[int, ...]

    @property
    def max_replicas(self) -> int:
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
    """The result of one seed."""

    seed: int | None
    """None for a run without faults."""
    scenario: str
    seconds: float = 0.0
    end: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The result of a campaign."""

    outcomes: list[Outcome] = field(default_factory=list)
    injected: collections.Counter[str] = field(default_factory=collections.Counter)
    requests: int = 0
    log_tails: list[str] = field(default_factory=list)
    """The end of the operator's log, for each time that the process ended by itself."""
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
            f"{dict(sorted(self.injected.items()))}, operator restarts {len(self.log_tails)}"
        )


class Campaign:
    """The simulated cluster of a campaign: control plane, hollow pods, proxy and operator."""

    def __init__(self, api: kubeapi.Api, proxy: FaultProxy, nodes: int = NODES) -> None:
        self._api = api
        self._changed = asyncio.Condition()
        self._created: dict[str, set[str]] = collections.defaultdict(set)
        self._peak: dict[str, int] = collections.defaultdict(int)
        self.proxy = proxy
        self.hollow_nodes = HollowNodes(api, nodes)
        self.pods = kubeapi.Mirror(api, "/api/v1/pods", self._changed, self._on_pod_event)
        self.services = kubeapi.Mirror(api, f"{GROUP}/avatarservices", self._changed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Campaign]:
        async with self.hollow_nodes.running(), self.pods.running(), self.services.running():
            yield self

    async def run(self, seeds: Iterable[int]) -> list[Outcome]:
        """Run each scenario without faults, then all seeds, several at the same time."""
        clean = await asyncio.gather(*(self._run_one(None, name) for name in SCENARIOS))
        expected = {outcome.scenario: outcome for outcome in clean}
        slots = asyncio.Semaphore(AT_ONCE)

        async def bounded(seed: int) -> Outcome:
            async with slots:
                self.proxy.use_seed(seed)
                name = list(SCENARIOS)[seed % len(SCENARIOS)]
                outcome = await self._run_one(seed, name)
                clean_end = expected[name].end
                if not outcome.problems and outcome.end != clean_end:
                    outcome.problems.append(
                        f"ended with {outcome.end}, a clean run with {clean_end}"
                    )
                return outcome

        faulted = await asyncio.gather(*(bounded(seed) for seed in seeds))
        self.proxy.use_seed(None)
        return [*clean, *faulted]

    async def _run_one(self, seed: int | None, name: str) -> Outcome:
        namespace = f"clean-{name}" if seed is None else f"seed-{seed}"
        outcome = Outcome(seed, name)
        started = time.monotonic()
        if seed is not None:
            self.proxy.seeds[namespace] = seed
        try:
            await self._api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
            outcome.end = await self._run_scenario(SCENARIOS[name], namespace)
        except TimeoutError as error:
            outcome.problems.append(str(error))
        outcome.seconds = time.monotonic() - started
        outcome.problems += [
            f"pod {hollow_pod.name} was deleted with {hollow_pod.sessions} sessions"
            for hollow_pod in self.hollow_nodes.deleted_with_sessions
            if hollow_pod.namespace == namespace
        ]
        await self._api.delete(f"/api/v1/namespaces/{namespace}")
        self.proxy.forget(namespace)
        return outcome

    async def _run_scenario(self, scenario: Scenario, namespace: str) -> dict[str, object]:
        path = f"{GROUP}/namespaces/{namespace}/avatarservices"
        first, *later = scenario.specs
        body = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "AvatarService"}
        await self._api.post(path, {**body, "metadata": {"name": SERVICE}, "spec": first})
        await self._until(
            namespace, lambda: self._settled(namespace, first), "the first spec is reached"
        )
        hollow_pods = self.hollow_nodes.of(namespace)
        for hollow_pod, sessions in zip(hollow_pods, scenario.sessions, strict=False):
            await self.hollow_nodes.set_sessions(hollow_pod, sessions)
        total = sum(scenario.sessions)
        await self._until(
            namespace,
            lambda: self._status(namespace).get("sessions") == total,
            "the sessions are counted",
        )
        for spec in later:
            await self._api.merge(f"{path}/{SERVICE}", {"spec": dict(spec)})
            await self._until(
                namespace, lambda s=spec: self._is_done_for_now(namespace, s), f"{spec} is reached"
            )
        for hollow_pod in hollow_pods:
            await self.hollow_nodes.set_sessions(hollow_pod, 0)
        last = scenario.specs[-1]
        await self._until(
            namespace, lambda: self._settled(namespace, last), "the last spec is reached"
        )
        await self._until_quiet(namespace)
        return {
            **_normal(self._status(namespace)),
            "created": len(self._created.pop(namespace)),
            "peak": self._peak.pop(namespace),
        }

    async def _until(self, namespace: str, holds: Any, what: str) -> None:
        def last_seen() -> str:
            pods = [
                f"{pod['metadata']['name']} {'terminating' if _is_terminating(pod) else 'live'}"
                for pod in self.pods.of(namespace)
            ]
            hollow_pods = [
                (p.name, p.sessions, p.draining) for p in self.hollow_nodes.of(namespace)
            ]
            status = self._status(namespace)
            return f"{what}; last seen: {status}, pods {pods}, hollow pods {hollow_pods}"

        await kubeapi.until(self._changed, holds, last_seen, STEP_S)

    async def _until_quiet(self, namespace: str) -> None:
        """Wait until the operator has not written in the namespace for `QUIET_S`."""
        deadline = time.monotonic() + STEP_S / 3
        while True:
            writes = self.proxy.writes[namespace]
            rest_s = QUIET_S - (time.monotonic() - writes[-1].at)
            if rest_s <= 0:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the operator still writes at rest, last {writes[-3:]}")
            await asyncio.sleep(rest_s)

    def _on_pod_event(self, kind: str, pod: Body) -> None:
        namespace = pod["metadata"]["namespace"]
        if kind == "ADDED":
            self._created[namespace].add(pod["metadata"]["uid"])
        hashes = collections.Counter(
            pod["metadata"]["labels"].get(_HASH)
            for pod in self.pods.of(namespace)
            if not _is_terminating(pod)
        )
        self._peak[namespace] = max(self._peak[namespace], *hashes.values(), 0)
        self.hollow_nodes.on_pod_event(kind, pod)

    def _status(self, namespace: str) -> dict[str, Any]:
        service = self.services.objects.get((namespace, SERVICE), {})
        return dict(service.get("status", {}))

    def _is_done_for_now(self, namespace: str, spec: Mapping[str, Any]) -> bool:
        """Return whether everything is done that is possible while sessions are live."""
        service = self.services.objects[namespace, SERVICE]
        status = self._status(namespace)
        live = {p["metadata"]["uid"] for p in self.pods.of(namespace) if not _is_terminating(p)}
        hollow_pods = {
            uid: self.hollow_nodes.hollow_pods[uid]
            for uid in live
            if uid in self.hollow_nodes.hollow_pods
        }
        staying = [hollow_pod for hollow_pod in hollow_pods.values() if not hollow_pod.draining]
        return bool(
            status.get("observedGeneration") == service["metadata"]["generation"]
            and status["desiredReplicas"] == spec["replicas"] == len(staying)
            and len(hollow_pods) == len(live)
            and all(
                hollow_pod.sessions for hollow_pod in hollow_pods.values() if hollow_pod.draining
            )
        )

    def _settled(self, namespace: str, spec: Mapping[str, Any]) -> bool:
        """Return whether the service matches its spec by its status, and nothing is pending."""
        if not self.services.objects.get((namespace, SERVICE), {}).get("status"):
            return False
        status = self._status(namespace)
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        return bool(
            self._is_done_for_now(namespace, spec)
            and status["replicas"] == status["readyReplicas"] == spec["replicas"]
            and status["sessions"] == 0
            and conditions["Ready"] == "True"
            and conditions["Progressing"] == conditions["Draining"] == "False"
            and conditions["Degraded"] == "False"
            and conditions["StateFresh"] == "True"
            and len(self.pods.of(namespace)) == spec["replicas"]
        )


async def run(cluster: ControlPlane, seeds: Iterable[int]) -> Report:
    """Run a campaign on a control plane without nodes."""
    started = time.monotonic()
    report = Report()
    await operator_process.install_chart(cluster)
    ca: Path = cluster.ca
    async with kubeapi.connected(cluster) as api, serving(cluster.server, ca) as proxy:
        path = await operator_process.kubeconfig(cluster, "faults", proxy.url)
        async with (
            operator_process.operating(cluster, path) as operator,
            Campaign(api, proxy).running() as campaign,
        ):
            report.outcomes = await campaign.run(seeds)
            report.log_tails = operator.log_tails
            report.sessions_cut = sum(
                hollow_pod.sessions for hollow_pod in campaign.hollow_nodes.deleted_with_sessions
            )
        report.injected = proxy.injected
        report.requests = proxy.requests
    report.seconds = time.monotonic() - started
    return report


def _is_terminating(pod: Body) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _normal(status: Mapping[str, Any]) -> dict[str, object]:
    """Return what must be equal in two runs: all except times, pod names and the history."""
    kept = ("desiredReplicas", "replicas", "readyReplicas", "sessions", "capacity", "state")
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    return {**{key: status[key] for key in kept}, "conditions": conditions, "gpu": status["gpu"]}
