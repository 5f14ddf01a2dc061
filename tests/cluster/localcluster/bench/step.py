"""The reaction time of the operator to a tenfold arrival rate, and to silent state streams.

Real: the API server, etcd, the scheduler, and the operator with its own account, which reads the
state stream of each pod and of the gateway. Fake: the nodes, the runtime pods and the gateway. Its
callers arrive at even intervals, stay, and wait while no pod has a free slot.
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
from localcluster.fakes.gateway import FakeGateway
from localcluster.fakes.hollow_pods import HollowNodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from localcluster.controlplane.kubeapi import Body

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE: Final = "subject"
NODES: Final = 16
START_S: Final = 1.0  # from the binding of a pod to its readiness
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
class Timeline:
    """The timeline of one service, in seconds of the monotonic clock."""

    created_at: list[float] = field(default_factory=list)
    needed: list[tuple[float, int]] = field(default_factory=list)
    """Each time when more pods were needed than before, with their number."""
    wanted: list[int] = field(default_factory=list)
    """Each new `desiredReplicas` in the status."""

    def need(self, demand: int) -> None:
        """Record the demand; the free slots of the policy are added."""
        pods = ceil((demand + FREE) / hollow_pods.CAPACITY)
        if not self.needed or pods > self.needed[-1][1]:
            self.needed.append((time.monotonic(), pods))

    def lags_s(self, since: float) -> list[float]:
        """Return for each pod that was needed after `since` how much later it was created.

        The lag is 0 for a pod that existed before.
        """
        lags = []
        for at, pods in self.needed:
            if at >= since:
                requested = self.created_at[pods - 1] if pods <= len(self.created_at) else None
                lags.append(WITHIN_S if requested is None else max(0.0, requested - at))
        return lags

    def reversals(self) -> int:
        """Return how often the desired number of pods reversed its direction."""
        changes = [after - before for before, after in itertools.pairwise(self.wanted)]
        return sum(1 for one, next_one in itertools.pairwise(changes) if one * next_one < 0)


@dataclass(slots=True)
class StepCluster:
    """The simulated cluster, and the timelines of its services."""

    api: kubeapi.Api
    hollow_nodes: HollowNodes
    gateway: FakeGateway
    changed: asyncio.Condition
    services: kubeapi.Mirror
    timelines: dict[str, Timeline]

    async def add(self, namespace: str, autoscaling: Body) -> None:
        """Create a service in its own namespace."""
        await self.api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": SERVICE},
            "spec": {"autoscaling": autoscaling, "placement": {"gpuClasses": ["rtx-4090"]}},
        }
        await self.api.post(f"{GROUP}/namespaces/{namespace}/avatarservices", body)

    def status(self, namespace: str) -> Body:
        """Return the status of a service."""
        return dict(self.services.objects.get((namespace, SERVICE), {}).get("status", {}))

    async def until_ready(self, namespace: str, pods: int) -> None:
        """Wait until the service has at least `pods` ready pods."""

        def ready() -> bool:
            return bool(self.status(namespace).get("readyReplicas", 0) >= pods)

        await kubeapi.until(
            self.changed, ready, lambda: f"{namespace} ready: {self.status(namespace)}", WITHIN_S
        )


@contextlib.asynccontextmanager
async def simulated_cluster(cluster: ControlPlane) -> AsyncIterator[StepCluster]:
    """Run the operator with hollow nodes and a fake gateway."""
    await operator_process.install_chart(cluster)
    path = await operator_process.kubeconfig(cluster, "step", cluster.server)
    changed = asyncio.Condition()
    timelines: dict[str, Timeline] = {}

    def on_pod_event(kind: str, pod: Body) -> None:
        timeline = timelines.get(pod["metadata"]["namespace"])
        if timeline is not None and kind == "ADDED":
            timeline.created_at.append(time.monotonic())
        hollow_nodes.on_pod_event(kind, pod)

    def on_service_event(kind: str, service: Body) -> None:
        timeline = timelines.get(service["metadata"]["namespace"])
        wanted = service.get("status", {}).get("desiredReplicas")
        if timeline is not None and wanted is not None and timeline.wanted[-1:] != [wanted]:
            timeline.wanted.append(wanted)

    async with kubeapi.connected(cluster) as api:
        hollow_nodes = HollowNodes(api, NODES, start_s=START_S)
        pods = kubeapi.Mirror(api, "/api/v1/pods", changed, on_pod_event)
        services = kubeapi.Mirror(api, f"{GROUP}/avatarservices", changed, on_service_event)
        gateway = FakeGateway(api, hollow_nodes, operator_process.SYSTEM)
        async with (
            hollow_nodes.running(),
            pods.running(),
            services.running(),
            gateway.running(),
            operator_process.operating(cluster, path),
        ):
            yield StepCluster(api, hollow_nodes, gateway, changed, services, timelines)


async def step(simulated: StepCluster, namespace: str) -> dict[str, Any]:
    """Add callers at a steady rate, then at the tenfold rate; return the measurements."""
    timeline = simulated.timelines[namespace] = Timeline()
    await simulated.add(namespace, dict(POLICY))
    await simulated.until_ready(namespace, 1)
    name = f"{namespace}/{SERVICE}"
    started = time.monotonic()
    stepped_at = started + BASE_S
    for at in arrivals(started):
        await asyncio.sleep(at - time.monotonic())
        await simulated.gateway.call(name, STAY_S)
        timeline.need(simulated.gateway.queue(name).demand)
    await asyncio.sleep(AFTER_S)
    short = [at for at, pods in timeline.needed if at >= stepped_at and pods > 0]
    made = [at for at in timeline.created_at if at >= stepped_at]
    result = {
        "first_create_after_step_s": made[0] - stepped_at if made else WITHIN_S,
        "shortage_after_step_s": short[0] - stepped_at if short else None,
        "lags_s": timeline.lags_s(stepped_at),
        "pods_before": len(timeline.created_at) - len(made),
        "pods_requested": len(timeline.created_at),
        "pods_needed": timeline.needed[-1][1],
        "waited": len(simulated.gateway.queue(name).waiting),
        "reversals": timeline.reversals(),
    }
    await simulated.api.delete(f"{GROUP}/namespaces/{namespace}/avatarservices/{SERVICE}")
    return result


def arrivals(started: float) -> Iterator[float]:
    """Yield the arrival times: at the steady rate, then at the tenfold rate."""
    for index in range(int(BASE_S * BASE_PER_S)):
        yield started + index / BASE_PER_S
    rate = BASE_PER_S * STEP
    for index in range(int(STEP_S * rate)):
        yield started + BASE_S + index / rate


async def stale(simulated: StepCluster, services: int) -> dict[str, Any]:
    """Stop all state streams; return the time until each status reports it."""
    policy = {**POLICY, "freeSessions": {"min": hollow_pods.CAPACITY + 1, "percent": 0}}
    names = [f"stale-{number}" for number in range(services)]
    for name in names:
        await simulated.add(name, policy)
    for name in names:
        await simulated.until_ready(name, 2)
    before = set(simulated.hollow_nodes.hollow_pods)
    reported: dict[str, float] = {}

    def fresh(name: str) -> str:
        conditions = simulated.status(name).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == "StateFresh"), "")

    def all_report(wanted: str) -> bool:
        for name in names:
            if fresh(name) == wanted:
                reported.setdefault(name, time.monotonic())
        return len(reported) == services

    await kubeapi.until(simulated.changed, lambda: all_report("True"), "all are fresh", WITHIN_S)
    reported.clear()
    silent_at = time.monotonic()
    simulated.gateway.silent = True
    await simulated.hollow_nodes.set_silent(simulated.hollow_nodes.hollow_pods.values(), True)
    await kubeapi.until(simulated.changed, lambda: all_report("False"), "all are stale", WITHIN_S)
    after = [at - silent_at for at in reported.values()]
    reported.clear()
    simulated.gateway.silent = False
    resumed_at = time.monotonic()
    await simulated.hollow_nodes.set_silent(simulated.hollow_nodes.hollow_pods.values(), False)
    await kubeapi.until(
        simulated.changed, lambda: all_report("True"), "all are fresh again", WITHIN_S
    )
    return {
        "services": services,
        "said_stale_s": record.figures(after),
        "said_fresh_s": record.figures([at - resumed_at for at in reported.values()]),
        "pods_lost": len(before - set(simulated.hollow_nodes.hollow_pods)),
        "pods_added": len(set(simulated.hollow_nodes.hollow_pods) - before),
    }


async def run(repetitions: int, at_once: int, services: int, state: Path) -> dict[str, Any]:
    """Run all repetitions, several at the same time, then the silent streams."""
    async with running(state) as cluster, simulated_cluster(cluster) as simulated:
        slots = asyncio.Semaphore(at_once)

        async def bounded(number: int) -> dict[str, Any]:
            async with slots:
                return await step(simulated, f"step-{number}")

        found = await asyncio.gather(*(bounded(number) for number in range(repetitions)))

        def no_pods() -> bool:
            return not simulated.hollow_nodes.hollow_pods

        await kubeapi.until(simulated.changed, no_pods, "the pods of the steps are gone", WITHIN_S)
        silence = await stale(simulated, services)
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
    """Run the benchmark and write its record; fail if silent streams removed a pod."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.step", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument(
        "--services", type=int, default=10, help="number of services in the test of silent streams"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(
            run(options.repetitions, options.at_once, options.services, Path(folder) / "cluster")
        )
    figures = {
        "first_create_p99_s": results["first_create_after_step_s"]["p99"],
        "all_requested_max_s": results["request_lag_s"]["max"],
        "reversals_max": results["reversals_max"],
        "said_stale_max_s": results["stale"]["said_stale_s"]["max"],
    }
    results["limits_kept"] = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    record.write(options.out, 0, f"{BASE_S:g} s at the steady rate, each", results)
    print(json.dumps(results, indent=2))
    return 1 if results["stale"]["pods_lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
