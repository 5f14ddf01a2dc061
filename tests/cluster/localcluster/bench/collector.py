"""The CPU time of an idle operator that reads the state streams of 1,000 idle pods.

Real: the API server, the scheduler, the operator with its own account, and one stream per pod with
one line per second. Hollow: the nodes and the pods. There are no sessions and no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.bench import record
from localcluster.controlplane import audit, kubeapi
from localcluster.controlplane.cluster import ControlPlane, running
from localcluster.fakes import hollow_pods
from localcluster.fakes.hollow_pods import HollowNodes

if TYPE_CHECKING:
    from localcluster.controlplane.kubeapi import Body
    from localcluster.operator_process import OperatorProcess

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
NAMESPACE: Final = "collector"
LINE_EVERY_S: Final = 1.0  # the interval of a runtime without changes
LIMIT_PERCENT: Final = 5.0
WITHIN_S: Final = 900.0
SETTLE_S: Final = 15.0


async def run(services: int, pods: int, rest_s: float, state: Path) -> dict[str, Any]:
    """Start the pods, wait until nothing changes, and measure the operator."""
    changed = asyncio.Condition()
    async with running(state) as cluster:
        await operator_process.install_chart(cluster)
        path = await operator_process.kubeconfig(cluster, "collector", cluster.server)
        async with kubeapi.connected(cluster) as api:
            nodes = -(-services * pods // hollow_pods.GPUS)
            hollow_nodes = HollowNodes(api, nodes, every_s=LINE_EVERY_S)
            mirror = kubeapi.Mirror(api, "/api/v1/pods", changed, hollow_nodes.on_pod_event)
            served = kubeapi.Mirror(api, f"{GROUP}/avatarservices", changed)
            async with (
                hollow_nodes.running(),
                mirror.running(),
                served.running(),
                operator_process.operating(cluster, path) as operator,
            ):
                empty = await watch(operator, rest_s / 2)
                print(f"without services: {json.dumps(empty)}", flush=True)
                started = time.monotonic()
                await add(api, services, pods)

                def ready() -> int:
                    return sum(
                        body.get("status", {}).get("readyReplicas") == pods
                        for body in served.objects.values()
                    )

                await kubeapi.until(
                    changed,
                    lambda: ready() == services,
                    lambda: f"{ready()} of {services} services are ready",
                    WITHIN_S,
                )
                up_s = time.monotonic() - started
                print(f"{services * pods} pods are up after {up_s:.0f} s", flush=True)
                await asyncio.sleep(SETTLE_S)  # states are received, statuses are written
                since = last_write(cluster)
                full = await watch(operator, rest_s)
                writes = audit.read(cluster.audit_log, operator_process.USER, since)
                restarts = operator.restarts
    return {
        "services": services,
        "pods": services * pods,
        "lines_per_s": services * pods / LINE_EVERY_S,
        "up_s": round(up_s, 1),
        "idle": full,
        "without_services": empty,
        "cpu_us_per_line": round(
            (full["cpu_percent"] - empty["cpu_percent"]) * 1e4 / (services * pods), 1
        ),
        "writes_at_rest": len(writes),
        "restarts": restarts,
        "limit_cpu_percent": LIMIT_PERCENT,
        "limit_kept": full["cpu_percent"] <= LIMIT_PERCENT,
        "real": "API server, scheduler, operator with its own account, state streams",
        "simulated": "nodes and runtime pods",
    }


async def add(api: kubeapi.Api, services: int, pods: int) -> None:
    """Create the services, each with a fixed number of pods."""
    await api.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for number in range(services):
        body: Body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": f"s{number:04}"},
            "spec": {
                "autoscaling": {
                    "minReplicas": pods,
                    "maxReplicas": pods,
                    "freeSessions": {"min": 1, "percent": 0},
                },
                "placement": {"gpuClasses": ["rtx-4090"]},
            },
        }
        await api.post(f"{GROUP}/namespaces/{NAMESPACE}/avatarservices", body)


async def watch(operator: OperatorProcess, seconds: float) -> dict[str, float]:
    """Return the CPU time of the operator's process over an interval."""
    before, started = operator.usage(), time.monotonic()
    await asyncio.sleep(seconds)
    after, passed_s = operator.usage(), time.monotonic() - started
    return {
        "seconds": round(passed_s, 1),
        "cpu_percent": round(100 * (after.cpu_s - before.cpu_s) / passed_s, 2),
        "rss_mib": round(after.rss_mib, 1),
    }


def last_write(cluster: ControlPlane) -> str:
    """Return the time of the last write of the operator."""
    writes = audit.read(cluster.audit_log, operator_process.USER)
    return writes[-1].at if writes else ""


def main() -> int:
    """Run the benchmark and write its record; fail if the operator wrote at rest or ended."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.collector", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--pods", type=int, default=5, help="of a service")
    parser.add_argument("--rest-s", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(
            run(options.services, options.pods, options.rest_s, Path(folder) / "cluster")
        )
    record.write(options.out, 0, f"{SETTLE_S:g} s after the last pod", results)
    print(json.dumps(results, indent=2))
    return 1 if results["writes_at_rest"] or results["restarts"] else 0


if __name__ == "__main__":
    sys.exit(main())
