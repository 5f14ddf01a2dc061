"""How fast the operator answers callers who come ten times as often, and sources that fall silent.

Real: API server, etcd, scheduler, and the operator with its own account, which follows a state
stream for each pod and one of the gateway. Puppets: nodes, runtime pods and the gateway, whose
callers come evenly spaced, stay, and wait when no pod has room.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.bench import record
from localcluster.controlplane import kubeapi
from localcluster.controlplane.cluster import ControlPlane, running
from localcluster.fakes import hollow_pods
from localcluster.fakes.gateway import PuppetGateway
from localcluster.fakes.hollow_pods import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from localcluster.controlplane.kubeapi import Body

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE: Final = "subject"
NODES: Final = 16
START_S: Final = 1.0  # of a pod, from its node to readiness
FREE: Final = 2
POLICY: Final = {
    "minReplicas": 1,
    "maxReplicas": 20,
    "freeSessions": {"min": FREE, "percent": 0},
    "scaleDownAfterSeconds": 60,
}
BASE_PER_S: Final = 1.0
STEP: Final = 10
STAY_S: Final = 6.0
BASE_S: Final = 8.0
STEP_S: Final = 8.0
AFTER_S: Final = 3.0
WITHIN_S: Final = 120.0
LIMITS: Final = {
    "first_create_p99_s": 1.0,
    "all_requested_max_s": 2.0,
    "reversals_max": 1,
    "said_stale_max_s": 5.0,
}


@dataclass(slots=True)
class Course:
    """What was seen of one service, in seconds of the monotonic clock."""

    created_at: list[float] = field(default_factory=list)
    needed: list[tuple[float, int]] = field(default_factory=list)
    """When more pods were needed than ever before, and how many."""
    wanted: list[int] = field(default_factory=list)
    """The numbers in its status, as they changed."""

    def need(self, demand: int) -> None:
        """Take in how many slots are wanted now, free ones included."""
        pods = ceil((demand + FREE) / hollow_pods.CAPACITY)
        if not self.needed or pods > self.needed[-1][1]:
            self.needed.append((time.monotonic(), pods))

    def lags_s(self, since: float) -> list[float]:
        """Return for each pod that was needed after a time how much later it was requested.

        0 for those that were there already.
        """
        lags = []
        for at, pods in self.needed:
            if at >= since:
                requested = self.created_at[pods - 1] if pods <= len(self.created_at) else None
                lags.append(WITHIN_S if requested is None else max(0.0, requested - at))
        return lags

    def reversals(self) -> int:
        """Return how often the number of pods changed its direction."""
        changes = [after - before for before, after in itertools.pairwise(self.wanted)]
        return sum(1 for one, next_one in itertools.pairwise(changes) if one * next_one < 0)


@dataclass(slots=True)
class World:
    """The running parts, and what is seen of them."""

    api: kubeapi.Api
    stage: Stage
    gateway: PuppetGateway
    changed: asyncio.Condition
    services: kubeapi.Mirror
    courses: dict[str, Course]

    async def add(self, namespace: str, autoscaling: Body) -> None:
        """Make a service in a namespace of its own."""
        await self.api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": SERVICE},
            "spec": {"autoscaling": autoscaling, "placement": {"gpuClasses": ["rtx-4090"]}},
        }
        await self.api.post(f"{GROUP}/namespaces/{namespace}/avatarservices", body)

    def status(self, namespace: str) -> Body:
        """Return what the operator says of a service."""
        return dict(self.services.objects.get((namespace, SERVICE), {}).get("status", {}))

    async def until_ready(self, namespace: str, pods: int) -> None:
        """Wait until the service has so many pods that take sessions."""

        def ready() -> bool:
            return bool(self.status(namespace).get("readyReplicas", 0) >= pods)

        await kubeapi.until(
            self.changed, ready, lambda: f"{namespace} ready: {self.status(namespace)}", WITHIN_S
        )


@contextlib.asynccontextmanager
async def world(cluster: ControlPlane) -> AsyncIterator[World]:
    """Run the operator and the puppets."""
    await operator_process.install_chart(cluster)
    path = await operator_process.kubeconfig(cluster, "step", cluster.server)
    changed = asyncio.Condition()
    courses: dict[str, Course] = {}

    def see_pod(kind: str, pod: Body) -> None:
        course = courses.get(pod["metadata"]["namespace"])
        if course is not None and kind == "ADDED":
            course.created_at.append(time.monotonic())
        stage.see(kind, pod)

    def see_service(kind: str, service: Body) -> None:
        course = courses.get(service["metadata"]["namespace"])
        wanted = service.get("status", {}).get("desiredReplicas")
        if course is not None and wanted is not None and course.wanted[-1:] != [wanted]:
            course.wanted.append(wanted)

    async with kubeapi.connected(cluster) as api:
        stage = Stage(api, NODES, start_s=START_S)
        pods = kubeapi.Mirror(api, "/api/v1/pods", changed, see_pod)
        services = kubeapi.Mirror(api, f"{GROUP}/avatarservices", changed, see_service)
        gateway = PuppetGateway(api, stage, operator_process.SYSTEM)
        async with (
            stage.running(),
            pods.running(),
            services.running(),
            gateway.running(),
            operator_process.operating(cluster, path),
        ):
            yield World(api, stage, gateway, changed, services, courses)


async def step(there: World, namespace: str) -> dict[str, Any]:
    """Let callers come at a steady rate, then at ten times that; return what was measured."""
    course = there.courses[namespace] = Course()
    await there.add(namespace, dict(POLICY))
    await there.until_ready(namespace, 1)
    name = f"{namespace}/{SERVICE}"
    begun = time.monotonic()
    stepped_at = begun + BASE_S
    for at in arrivals(begun):
        await asyncio.sleep(at - time.monotonic())
        await there.gateway.call(name, STAY_S)
        course.need(there.gateway.line(name).demand)
    await asyncio.sleep(AFTER_S)
    short = [at for at, pods in course.needed if at >= stepped_at and pods > 0]
    made = [at for at in course.created_at if at >= stepped_at]
    result = {
        "first_create_after_step_s": made[0] - stepped_at if made else WITHIN_S,
        "shortage_after_step_s": short[0] - stepped_at if short else None,
        "lags_s": course.lags_s(stepped_at),
        "pods_before": len(course.created_at) - len(made),
        "pods_requested": len(course.created_at),
        "pods_needed": course.needed[-1][1],
        "waited": len(there.gateway.line(name).waiting),
        "reversals": course.reversals(),
    }
    await there.api.delete(f"{GROUP}/namespaces/{namespace}/avatarservices/{SERVICE}")
    return result


def arrivals(begun: float) -> Iterator[float]:
    """Yield when callers come: at the steady rate, then at ten times that."""
    for index in range(int(BASE_S * BASE_PER_S)):
        yield begun + index / BASE_PER_S
    rate = BASE_PER_S * STEP
    for index in range(int(STEP_S * rate)):
        yield begun + BASE_S + index / rate


async def stale(there: World, services: int) -> dict[str, Any]:
    """Let every source fall silent at once; return after which time each service says so."""
    policy = {**POLICY, "freeSessions": {"min": hollow_pods.CAPACITY + 1, "percent": 0}}
    names = [f"stale-{number}" for number in range(services)]
    for name in names:
        await there.add(name, policy)
    for name in names:
        await there.until_ready(name, 2)
    before = set(there.stage.puppets)
    told: dict[str, float] = {}

    def fresh(name: str) -> str:
        conditions = there.status(name).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == "StateFresh"), "")

    def all_told(wanted: str) -> bool:
        for name in names:
            if fresh(name) == wanted:
                told.setdefault(name, time.monotonic())
        return len(told) == services

    await kubeapi.until(there.changed, lambda: all_told("True"), "all are fresh", WITHIN_S)
    told.clear()
    silent_at = time.monotonic()
    there.gateway.mute = True
    await there.stage.set_mute(there.stage.puppets.values(), True)
    await kubeapi.until(there.changed, lambda: all_told("False"), "all are stale", WITHIN_S)
    after = [at - silent_at for at in told.values()]
    told.clear()
    there.gateway.mute = False
    heard_at = time.monotonic()
    await there.stage.set_mute(there.stage.puppets.values(), False)
    await kubeapi.until(there.changed, lambda: all_told("True"), "all are fresh again", WITHIN_S)
    return {
        "services": services,
        "said_stale_s": record.figures(after),
        "said_fresh_s": record.figures([at - heard_at for at in told.values()]),
        "pods_lost": len(before - set(there.stage.puppets)),
        "pods_added": len(set(there.stage.puppets) - before),
    }


async def run(repetitions: int, at_once: int, services: int, state: Path) -> dict[str, Any]:
    """Run all repetitions, some at once, then the silence."""
    async with running(state) as cluster, world(cluster) as there:
        slots = asyncio.Semaphore(at_once)

        async def bounded(number: int) -> dict[str, Any]:
            async with slots:
                return await step(there, f"step-{number}")

        found = await asyncio.gather(*(bounded(number) for number in range(repetitions)))

        def nobody() -> bool:
            return not there.stage.puppets

        await kubeapi.until(there.changed, nobody, "the pods of the steps are gone", WITHIN_S)
        silence = await stale(there, services)
    lags = [lag for each in found for lag in each["lags_s"]]
    return {
        "step": f"{BASE_PER_S:g} to {BASE_PER_S * STEP:g} callers a second, {STAY_S:g} s each",
        "repetitions": repetitions,
        "at_once": at_once,
        "pod_start_s": START_S,
        "first_create_after_step_s": record.figures(
            [each["first_create_after_step_s"] for each in found]
        ),
        "request_lag_s": record.figures(lags),
        "reversals_max": max(each["reversals"] for each in found),
        "pods_requested": [each["pods_requested"] for each in found],
        "pods_needed": [each["pods_needed"] for each in found],
        "limits": LIMITS,
        "stale": silence,
        "real": "API server, scheduler, operator with its own account, state streams",
        "simulated": "nodes, runtime pods, the gateway and its callers",
    }


def main() -> int:
    """Run the benchmark and write its record; fail if a pod was lost while nobody was heard of."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.step", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--services", type=int, default=10, help="that fall silent")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(
            run(asked.repetitions, asked.at_once, asked.services, Path(folder) / "cluster")
        )
    figures = {
        "first_create_p99_s": results["first_create_after_step_s"]["p99"],
        "all_requested_max_s": results["request_lag_s"]["max"],
        "reversals_max": results["reversals_max"],
        "said_stale_max_s": results["stale"]["said_stale_s"]["max"],
    }
    results["limits_kept"] = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    record.write(asked.out, 0, f"{BASE_S:g} s at the steady rate, each", results)
    print(json.dumps(results, indent=2))
    return 1 if results["stale"]["pods_lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
