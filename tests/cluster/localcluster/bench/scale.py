"""The operator at scale: many services on kwok nodes, compared with a bare kopf operator.

Real: the API server, etcd, the scheduler, the controllers, and the operator with its own account.
Simulated by kwok: the nodes and the pods. No state stream is reachable, because no process runs in
a pod.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process, waiting
from localcluster.bench import bare, record
from localcluster.controlplane import audit, kubeapi, processes
from localcluster.controlplane.cluster import ControlPlane, running
from localcluster.fakes import kwok

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcluster.operator_process import OperatorProcess

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
PER_NAMESPACE: Final = 100
QUIET_S: Final = 5.0
LATE_S: Final = 60.0
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the benchmark."""

    services: int
    replicas: int
    changes: int
    rate: float
    rest_s: float
    limit_s: float


class Scale:
    """The simulated cluster of one benchmark."""

    def __init__(self, cluster: ControlPlane, api: kubeapi.Api, size: Size) -> None:
        self._cluster = cluster
        self._api = api
        self._size = size
        self._changed = asyncio.Condition()
        self._awaited: dict[tuple[str, str], tuple[int, float]] = {}
        self._latencies: list[float] = []
        self._done = 0
        self._is_done: Callable[[kubeapi.Body], bool] = lambda _: False
        self._not_done: set[tuple[str, str]] = set()
        self._finished = asyncio.Event()
        self.services = kubeapi.Mirror(api, f"{GROUP}/avatarservices", self._changed, self._see)

    async def prepare(self) -> dict[str, float]:
        """Create nodes and services before an operator runs."""
        size = self._size
        pods = size.services * size.replicas + size.changes
        nodes = -(-pods * 11 // (10 * kwok.GPUS))
        started = time.monotonic()
        await kwok.add_nodes(self._api, nodes)
        keys = [(f"scale-{n // PER_NAMESPACE}", f"s{n:05}") for n in range(size.services)]
        for namespace in sorted({namespace for namespace, _ in keys}):
            await self._api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        slots = asyncio.Semaphore(kwok.AT_ONCE)

        async def create(namespace: str, name: str) -> None:
            body = {
                "apiVersion": "avatar.musetalk.io/v1alpha1",
                "kind": "AvatarService",
                "metadata": {"name": name},
                "spec": {"replicas": size.replicas, "placement": {"gpuClasses": ["rtx-4090"]}},
            }
            async with slots:
                await self._api.post(f"{GROUP}/namespaces/{namespace}/avatarservices", body)

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(create(*key))
        return {"nodes": nodes, "made_in_s": round(time.monotonic() - started, 1)}

    async def cold(
        self, is_done: Callable[[kubeapi.Body], bool], what: str, started: float
    ) -> float | None:
        """Wait until every service is done; return the seconds since `started`, None at the limit.

        The start of the operator is the start of its process: the first lists count.
        """
        self._is_done = is_done
        self._finished.clear()
        found = self.services.objects
        self._not_done = {key for key, body in found.items() if not is_done(body)}
        shown = asyncio.create_task(self._show(what))
        try:
            async with asyncio.timeout(self._size.limit_s):
                if self._not_done:
                    await self._finished.wait()
        except TimeoutError:
            left = len(self._not_done)
            print(f"{what}: {left} services are not done after {self._size.limit_s:.0f} s")
            return None
        finally:
            shown.cancel()
        return time.monotonic() - started

    async def change(self, patch: Callable[[kubeapi.Body], kubeapi.Body]) -> dict[str, float]:
        """Change services at the given rate; return the time until each change was observed."""
        self._latencies.clear()
        chosen = random.Random(SEED).sample(sorted(self.services.objects), self._size.changes)
        async with asyncio.TaskGroup() as tasks:
            started = time.monotonic()
            for number, key in enumerate(chosen):
                await asyncio.sleep(started + number / self._size.rate - time.monotonic())
                tasks.create_task(self._change(key, patch(self.services.objects[key])))

        async def left() -> int:
            return len(self._awaited)

        with contextlib.suppress(TimeoutError):
            await waiting.until(left, lambda count: not count, "all are observed", LATE_S)
        late = len(self._awaited)
        self._awaited.clear()
        return {**record.figures(self._latencies), "never": late}

    async def quiet(self, user: str) -> None:
        """Wait until an account has not written for `QUIET_S`."""
        deadline = time.monotonic() + self._size.limit_s
        before, since = -1, time.monotonic()
        while time.monotonic() < deadline:
            writes = await asyncio.to_thread(self._writes, user)
            if writes != before:
                before, since = writes, time.monotonic()
            elif time.monotonic() - since >= QUIET_S:
                return
            await asyncio.sleep(0.5)
        print(f"{user} still writes after {self._size.limit_s:.0f} s")

    async def rest(self, user: str, operator: OperatorProcess) -> dict[str, float]:
        """Measure an operator without work."""
        writes, usage = await asyncio.to_thread(self._writes, user), operator.usage()
        started = time.monotonic()
        await asyncio.sleep(self._size.rest_s)
        seconds = time.monotonic() - started
        after = operator.usage()
        return {
            "seconds": round(seconds, 1),
            "writes": await asyncio.to_thread(self._writes, user) - writes,
            "cpu_percent_of_a_core": round(100 * (after.cpu_s - usage.cpu_s) / seconds, 2),
            "rss_mib": round(after.rss_mib, 1),
            "peak_rss_mib": round(after.peak_rss_mib, 1),
        }

    def writes_by_resource(self, user: str) -> dict[str, int]:
        """Count the writes of an account, with failures by status code."""
        counts: dict[str, int] = {}
        for write in audit.read(self._cluster.audit_log, user):
            code = "" if write.code < 300 else f" {write.code}"
            name = f"{write.verb} {write.resource}{code}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def _writes(self, user: str) -> int:
        return len(audit.read(self._cluster.audit_log, user))

    async def _change(self, key: tuple[str, str], patch: kubeapi.Body) -> None:
        namespace, name = key
        path = f"{GROUP}/namespaces/{namespace}/avatarservices/{name}"
        generation = self.services.objects[key]["metadata"]["generation"] + 1
        self._awaited[key] = (generation, time.monotonic())
        await self._api.merge(path, patch)

    def _see(self, kind: str, body: kubeapi.Body) -> None:
        if kind == "DELETED":
            return
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        awaited = self._awaited.get(key)
        if awaited and body.get("status", {}).get("observedGeneration", 0) >= awaited[0]:
            del self._awaited[key]
            self._latencies.append(time.monotonic() - awaited[1])
        if key in self._not_done and self._is_done(body):
            self._not_done.remove(key)
            if not self._not_done:
                self._finished.set()

    async def _show(self, what: str) -> None:
        while True:
            await asyncio.sleep(10)
            left = len(self._not_done)
            print(f"  {what}: {self._size.services - left} of {self._size.services}", flush=True)


async def run(size: Size, state: Path) -> dict[str, Any]:
    """Run the whole benchmark in an empty folder."""
    results: dict[str, Any] = {
        "services": size.services,
        "pods_per_service": size.replicas,
        "simulated": "nodes and pods by kwok; no state stream can be reached",
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }
    async with running(state) as cluster:
        await operator_process.install_chart(cluster)
        # Both operators use the account of the product, with its permissions.
        path = await operator_process.kubeconfig(cluster, "scale", cluster.server)
        async with kubeapi.connected(cluster) as api, kwok.running(cluster):
            scale = Scale(cluster, api, size)
            results |= await scale.prepare()
            print(f"{size.services} services on {results['nodes']} nodes are made", flush=True)
            async with scale.services.running():
                results["bare_kopf"] = await _bare(cluster, scale, path)
                print(f"bare kopf: {json.dumps(results['bare_kopf'])}", flush=True)
                results["operator"] = await _operator(cluster, scale, path, size)
                print(f"operator: {json.dumps(results['operator'])}", flush=True)
    ours, bare = results["operator"], results["bare_kopf"]
    results["ratio_to_baseline"] = {
        "cold": _ratio(ours["cold_s"], bare["cold_s"]),
        "change_median": _ratio(ours["change_s"].get("median"), bare["change_s"].get("median")),
        "change_p99": _ratio(ours["change_s"].get("p99"), bare["change_s"].get("p99")),
        "cold_cpu": _ratio(ours["cold_cpu_s"], bare["cold_cpu_s"]),
        "rss": _ratio(ours["rest"]["rss_mib"], bare["rest"]["rss_mib"]),
    }
    return results


async def _bare(cluster: ControlPlane, scale: Scale, path: Path) -> dict[str, Any]:
    user = operator_process.USER
    started = time.monotonic()
    async with operator_process.operating(cluster, path, "localcluster.bench.bare") as operator:
        cold_s = await scale.cold(
            lambda body: bool(body.get("status", {}).get("state") == bare.STATE),
            "bare kopf",
            started,
        )
        used = operator.usage()
        await scale.quiet(user)
        change = await scale.change(_reorder)
        await scale.quiet(user)
        rest = await scale.rest(user, operator)
    return {
        "cold_s": _rounded(cold_s), "cold_cpu_s": round(used.cpu_s, 2), "change_s": change,
        "rest": rest, "writes": scale.writes_by_resource(user),
    }  # fmt: skip


async def _operator(cluster: ControlPlane, scale: Scale, path: Path, size: Size) -> dict[str, Any]:
    user = operator_process.USER
    before, shares = scale.writes_by_resource(user), _processor()
    started = time.monotonic()
    async with operator_process.operating(cluster, path) as operator:

        def is_done(body: kubeapi.Body) -> bool:
            status = body.get("status", {})
            return bool(
                status.get("readyReplicas") == size.replicas
                and status.get("observedGeneration") == body["metadata"]["generation"]
            )

        cold_s = await scale.cold(is_done, "operator", started)
        used = operator.usage()
        shares = {
            name: round(cpu_s - shares.get(name, 0), 1) for name, cpu_s in _processor().items()
        }
        print(f"operator: cold {_rounded(cold_s)} s, {used}, of {shares}", flush=True)
        await scale.quiet(user)
        settled = operator.usage()
        change = await scale.change(_reorder)
        print(f"operator: changes {change}", flush=True)
        await scale.quiet(user)
        grow = await scale.change(lambda _: {"spec": {"replicas": size.replicas + 1}})
        print(f"operator: one pod more {grow}", flush=True)
        await scale.quiet(user)
        rest = await scale.rest(user, operator)
        after = scale.writes_by_resource(user)
        return {
            "cold_s": _rounded(cold_s), "cold_cpu_s": round(used.cpu_s, 2),
            "cold_cpu_s_of_programs": shares,
            "settled_cpu_s": round(settled.cpu_s, 2), "change_s": change, "grow_s": grow,
            "rest": rest, "restarts": operator.restarts,
            "writes": {k: n for k, v in after.items() if (n := v - before.get(k, 0))},
        }  # fmt: skip


def _processor() -> dict[str, float]:
    """Return the CPU time of each program so far; `python` is the operator and the supervisor."""
    programs = processes.cpu_by_program(os.getpid())
    return {**programs, "benchmark": time.process_time()}


def _reorder(body: kubeapi.Body) -> kubeapi.Body:
    """Change a spec so that no pod changes; the operator only observes it and writes status."""
    strategy = body["spec"]["placement"].get("strategy", "preferred")
    return {"spec": {"placement": {"strategy": _OTHER[strategy]}}}


_OTHER: Final = {"preferred": "cheapest", "cheapest": "preferred"}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 2) if ours is not None and theirs else None


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.scale", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--services", type=int, default=2000)
    parser.add_argument("--replicas", type=int, default=5, help="pods of a service")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second")
    parser.add_argument("--rest-s", type=float, default=30.0)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="for each wait")
    options = parser.parse_args()
    size = Size(
        options.services, options.replicas, min(options.changes, options.services), options.rate,
        options.rest_s, options.limit_s,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(run(size, Path(folder) / "cluster"))
    record.write(options.out, SEED, "none: cold start is measured", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
