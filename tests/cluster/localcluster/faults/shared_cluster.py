"""Runs the seeds of `localcluster.faults.shared_campaign` on a real control plane, one by one.

One control plane and one operator process serve all seeds. The operator, its account, the API
server, the scheduler and the controllers are real; the nodes and the runtime pods are hollow
(`localcluster.fakes.mixed_nodes`). All limits are in the time of `machine_clock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import yaml

from localcluster import operator_process, paths
from localcluster.controlplane import kubeapi, processes
from localcluster.fakes.mixed_nodes import MixedNodes
from localcluster.faults import shared_campaign
from localcluster.faults.machine_clock import MachineClock
from localcluster.faults.shared_campaign import (
    Act,
    Apply,
    Begin,
    Delete,
    Foreign,
    Observed,
    Scenario,
    Watch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_TRIES: Final = 5
QUIET_S: Final = 2.5
"""A seed has converged when no service and no pod has changed for as long."""
CONVERGE_S: Final = 60.0
CLEAR_S: Final = 60.0
LONGEST_S: Final = 900.0
"""Wall time after which a seed that has not converged is given up."""
LOOK_EVERY_S: Final = 0.2
SHOWN: Final = 3
"""Problems of a seed and check that a report shows."""
STRANGER: Final = {"purpose": "belongs to a stranger"}
PATHS: Final = {
    "secret": "/api/v1/namespaces/{}/secrets",
    "poddisruptionbudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "pod": "/api/v1/namespaces/{}/pods",
}


@dataclass(slots=True)
class Outcome:
    """How a seed ended."""

    seed: int
    converged_s: float | None = None
    """From the last step to the last change; None if it never converged."""
    seconds: float = 0.0
    waited_s: float = 0.0
    """The part of `seconds` that does not count: a process waited for a processor."""
    sessions: int = 0
    """The number of sessions that started."""
    starved: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Check and words."""

    def shortened(self) -> list[tuple[str, str]]:
        """Return the first problems of each check, and how many more there are."""
        found: list[tuple[str, str]] = []
        for check in shared_campaign.CHECKS:
            texts = [text for failed, text in self.problems if failed == check]
            found += [(check, text) for text in texts[:SHOWN]]
            if len(texts) > SHOWN:
                found.append((check, f"{len(texts) - SHOWN} more problems of this kind"))
        return found

    def failed(self, check: str) -> bool:
        """Return whether a check failed."""
        return any(check == failed for failed, _ in self.problems)


@dataclass(slots=True)
class Report:
    """How a campaign ended."""

    outcomes: list[Outcome] = field(default_factory=list)
    sessions_cut: int = 0
    log_tails: list[str] = field(default_factory=list)
    """The last lines of the operator's log, each time that the process ended by itself."""
    seconds: float = 0.0
    leadership_losses: int = 0
    """How often the operator, which has no standby here, renewed its Lease too late."""

    @property
    def problems(self) -> list[str]:
        """One line for each problem, with its seed."""
        return [
            f"seed {outcome.seed} [{check}]: {words}"
            for outcome in self.outcomes
            for check, words in outcome.shortened()
        ]

    def failing_seeds(self) -> dict[str, list[int]]:
        """Return the seeds that fail each check."""
        return {
            check: [outcome.seed for outcome in self.outcomes if outcome.failed(check)]
            for check in shared_campaign.CHECKS
        }

    def summary(self) -> str:
        """Return the figures in a few lines."""
        failing = "\n".join(
            f"  {check}: {len(seeds)} seeds fail {seeds or ''}"
            for check, seeds in self.failing_seeds().items()
        )
        return (
            f"{len(self.outcomes)} seeds in {self.seconds:.0f} s, {len(self.problems)} problems, "
            f"{sum(outcome.sessions for outcome in self.outcomes)} sessions, "
            f"{self.sessions_cut} cut, operator restarts {len(self.log_tails)}, "
            f"leadership losses {self.leadership_losses}\n{failing}"
        )


class SharedCluster:
    """The running control plane, as its users and its observer see it."""

    def __init__(self, api: kubeapi.Api) -> None:
        self._api = api
        self._changed = asyncio.Condition()
        self._clock = _clock()
        self._changed_s = self._clock.now()
        self._excused: frozenset[shared_campaign.Key] = frozenset()
        missing = shared_campaign.MISSING_IMAGE
        self.nodes = MixedNodes(api, shared_campaign.CLASSES, missing)
        self.pods = kubeapi.Mirror(api, "/api/v1/pods", self._changed, self._on_pod_event)
        services = f"{GROUP}/avatarservices"
        self.services = kubeapi.Mirror(api, services, self._changed, self._on_service_event)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SharedCluster]:
        """Register the nodes, create the tenants' namespaces, and follow the server."""
        for namespace in shared_campaign.TENANTS:
            await self._api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        async with self.nodes.running(), self.pods.running(), self.services.running():
            yield self

    async def run(self, scenario: Scenario) -> Outcome:
        """Run a seed and remove its objects."""
        outcome = Outcome(scenario.seed)
        started_s = time.monotonic()
        self._clock = _clock()
        self._changed_s = self._clock.now()
        cut_before = len(self.nodes.deleted_with_sessions)
        self._excused = frozenset(f.key for f in scenario.foreign if f.kind != "pod")
        before = {foreign: await self._create(foreign) for foreign in scenario.foreign}
        watch = Watch()
        observer = asyncio.create_task(self._observe(watch), name="observer")
        try:
            await self._play(scenario, outcome)
            await self._converge(watch, outcome)
            outcome.starved = shared_campaign.starved(self._observed())
        finally:
            observer.cancel()
            await asyncio.gather(observer, return_exceptions=True)
        outcome.problems += [(check, words) for (check, _), words in watch.problems.items()]
        outcome.problems += await self._changed_foreign(before, "while the services existed")
        unchanged = {f: text for f, text in before.items() if not outcome.failed("foreign")}
        await self._clear(outcome, scenario)
        outcome.problems += await self._changed_foreign(unchanged, "when the services were deleted")
        for foreign in scenario.foreign:
            await self._api.delete(_path(foreign), {"gracePeriodSeconds": 0})
        outcome.problems += [
            ("cut", f"{pod.namespace}/{pod.name} ended with {pod.sessions} sessions")
            for pod in self.nodes.deleted_with_sessions[cut_before:]
        ]
        self._clock.advance()
        outcome.seconds = time.monotonic() - started_s
        outcome.waited_s = outcome.seconds - self._clock.now()
        return outcome

    async def _play(self, scenario: Scenario, outcome: Outcome) -> None:
        started_s = self._clock.now()
        async with asyncio.TaskGroup() as tasks:
            for step in scenario.steps:
                while (wait_s := started_s + step.at_s - self._clock.now()) > 0:
                    await asyncio.sleep(min(wait_s, LOOK_EVERY_S))
                    self._clock.advance()
                # Changes of services overlap, as those of several users do.
                tasks.create_task(self._act(step.act, outcome))

    async def _act(self, act: Act, outcome: Outcome) -> None:
        if isinstance(act, Apply):
            await self._apply(act)
        elif isinstance(act, Delete):
            await self._api.delete(_service_path(act.key))
        elif isinstance(act, Begin):
            if pods := self.nodes.open_pods():
                pod = pods[shared_campaign.pick(act.choice, len(pods))]
                outcome.sessions += 1
                await self.nodes.set_sessions(pod, pod.sessions + 1)
        elif pods := self.nodes.busy_pods():
            pod = pods[shared_campaign.pick(act.choice, len(pods))]
            await self.nodes.set_sessions(pod, pod.sessions - 1)

    async def _apply(self, act: Apply) -> None:
        """Create a service, or replace the whole spec of one that exists."""
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": act.key[1]},
            "spec": dict(act.spec),
        }
        replace: Any = [{"op": "replace", "path": "/spec", "value": dict(act.spec)}]
        for _ in range(APPLY_TRIES):
            try:
                await self._api.send("PATCH", _service_path(act.key), replace, JSON_PATCH)
            except aiohttp.ClientResponseError as error:
                if error.status != 404:
                    raise
            else:
                return
            try:
                await self._api.post(_service_path((act.key[0], "")).rstrip("/"), body)
            except aiohttp.ClientResponseError as error:
                if error.status != 409:
                    raise
            else:
                return
        raise TimeoutError(f"{act.key} was created and deleted {APPLY_TRIES} times meanwhile")

    async def _observe(self, watch: Watch) -> None:
        while True:
            self._clock.advance()
            watch.take(shared_campaign.suspicions(self._observed()), self._clock.now())
            await asyncio.sleep(LOOK_EVERY_S)

    async def _converge(self, watch: Watch, outcome: Outcome) -> None:
        """Wait until nothing has changed for a while and no suspicion is undecided."""
        since_s, gives_up_s = self._clock.now(), time.monotonic() + LONGEST_S
        while self._clock.now() - since_s < CONVERGE_S and time.monotonic() < gives_up_s:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._clock.now() - self._changed_s >= QUIET_S and not watch.open:
                outcome.converged_s = max(0.0, self._changed_s - since_s)
                return
        quiet_s = self._clock.now() - self._changed_s
        undecided = [suspicion.words for suspicion in watch.open]
        words = f"last change {quiet_s:.1f} s before the deadline of {CONVERGE_S:g} s"
        outcome.problems.append(("converges", f"{words}; undecided: {undecided[:3]}"))

    def _observed(self) -> Observed:
        return Observed(
            tuple(self.services.objects.values()),
            tuple(self.pods.objects.values()),
            self.nodes.node_classes,
            self.nodes.draining(),
            self._excused,
        )

    def _on_pod_event(self, kind: str, pod: Body) -> None:
        self._changed_s = self._clock.now()
        self.nodes.on_pod_event(kind, pod)

    def _on_service_event(self, kind: str, service: Body) -> None:
        del kind, service
        self._changed_s = self._clock.now()

    async def _create(self, foreign: Foreign) -> str:
        """Create a stranger's object and return what must not change of it."""
        labels = {shared_campaign.SERVICE_LABEL: foreign.key[1]} if foreign.kind == "pod" else {}
        body: dict[str, Any] = {
            "metadata": {"name": foreign.name, "labels": labels, "annotations": STRANGER}
        }
        if foreign.kind == "secret":
            body |= {"type": "Opaque", "stringData": {"token": "of-a-stranger"}}
        elif foreign.kind == "poddisruptionbudget":
            selector = {"matchLabels": {"app": "of-a-stranger"}}
            body |= {"spec": {"minAvailable": 0, "selector": selector}}
        else:
            labels |= {
                "app.kubernetes.io/name": "avatar-runtime",
                "app.kubernetes.io/instance": foreign.key[1],
                "app.kubernetes.io/managed-by": "avatar-operator",
            }
            # The gate keeps the scheduler from writing to the pod.
            gates = [{"name": "stranger.example/gate"}]
            containers = [{"name": "stranger", "image": "stranger"}]
            body |= {"spec": {"schedulingGates": gates, "containers": containers}}
        made = await self._api.post(PATHS[foreign.kind].format(foreign.key[0]), body)
        return shared_campaign.imprint(made)

    async def _changed_foreign(
        self, before: dict[Foreign, str], when: str
    ) -> list[tuple[str, str]]:
        found = []
        for foreign, was in before.items():
            try:
                now = shared_campaign.imprint(await self._api.get(_path(foreign)))
            except aiohttp.ClientResponseError as error:
                if error.status != 404:
                    raise
                now = "deleted"
            if now != was:
                what = "deleted" if now == "deleted" else "changed"
                name = f"{foreign.kind} {foreign.key[0]}/{foreign.name}"
                found.append(("foreign", f"{name} of a stranger was {what} {when}"))
        return found

    async def _clear(self, outcome: Outcome, scenario: Scenario) -> None:
        """End all sessions and delete all services; every pod of theirs must go."""
        for pod in self.nodes.busy_pods():
            await self.nodes.set_sessions(pod, 0)
        for key in list(self.services.objects):
            await self._api.delete(_service_path(key))
        strangers = {(f.key[0], f.name) for f in scenario.foreign}

        def left() -> list[str]:
            here = [key for key in self.pods.objects if key not in strangers]
            return ["/".join(key) for key in here if key[0] in shared_campaign.TENANTS]

        try:
            await kubeapi.until(
                self._changed,
                lambda: not left() and not self.services.objects,
                lambda: f"pods are left of deleted services: {left()}",
                CLEAR_S,
            )
        except TimeoutError as error:
            outcome.problems.append(("converges", str(error)))
            for namespace, _, name in (key.partition("/") for key in left()):
                path = f"/api/v1/namespaces/{namespace}/pods/{name}"
                await self._api.delete(path, {"gracePeriodSeconds": 0})


async def run(
    cluster: ControlPlane, seeds: Iterable[int], *, show: bool = False, limit_s: float = math.inf
) -> Report:
    """Run a campaign on a control plane of its own, without nodes.

    No seed starts after `limit_s`; the report has those that ran.
    """
    started_s = time.monotonic()
    report = Report()
    await operator_process.install_chart(cluster)
    path = await operator_process.kubeconfig(cluster, "shared", cluster.server)
    weights = has_weight()
    async with kubeapi.connected(cluster) as api:
        shared = SharedCluster(api)
        async with shared.running(), operator_process.operating(cluster, path) as operator:
            for seed in seeds:
                if time.monotonic() - started_s >= limit_s:
                    break
                scenario = shared_campaign.generate(seed, weights=weights)
                outcome = await shared.run(scenario)
                report.outcomes.append(outcome)
                if show:
                    _show(outcome)
            report.log_tails = operator.log_tails
            report.leadership_losses = operator.log.read_text().count(" lost leadership ")
        report.sessions_cut = sum(pod.sessions for pod in shared.nodes.deleted_with_sessions)
    report.seconds = time.monotonic() - started_s
    return report


def has_weight() -> bool:
    """Return whether the AvatarService of this checkout has the field `spec.weight`."""
    crd = yaml.safe_load((paths.REPOSITORY / "crds" / "avatarservices.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return "weight" in schema["properties"]["spec"]["properties"]


def _clock() -> MachineClock:
    """Return a clock of this process, which is the nodes, and of those below it."""
    pids = (os.getpid(), *processes.descendants(os.getpid()))
    return MachineClock(lambda: pids)


def _show(outcome: Outcome) -> None:
    took = "not" if outcome.converged_s is None else f"after {outcome.converged_s:.1f} s"
    print(
        f"seed {outcome.seed}: converged {took}, {outcome.sessions} sessions, "
        f"{outcome.seconds:.0f} s ({outcome.waited_s:.0f} s of them without a processor), "
        f"{len(outcome.problems)} problems",
        flush=True,
    )
    for check, words in outcome.shortened():
        print(f"  seed {outcome.seed} [{check}]: {words}", flush=True)


def _service_path(key: shared_campaign.Key) -> str:
    return f"{GROUP}/namespaces/{key[0]}/avatarservices/{key[1]}"


def _path(foreign: Foreign) -> str:
    return f"{PATHS[foreign.kind].format(foreign.key[0])}/{foreign.name}"
