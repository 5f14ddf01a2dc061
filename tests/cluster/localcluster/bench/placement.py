"""Placements of two gateways that hear 1,000 pods: rate, time to open, CPU time of the gateways.

Services have 100 pods with 8 slots each. The API server and the pods are fakes in one process
(`localcluster.fakes.gateway_world`), the callers are in another one. A placement is everything from
a new connection to a session that a pod has accepted, and its end. All processes share the machine,
so the rate on two cores follows from the processor time of the gateways, which is measured as well.
The decision alone is measured in this process: order the pods, reserve a slot, count its state.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway.core.model import Pod, State
from avatar_gateway.core.routing import Shortage
from avatar_gateway.pod_registry import PodRegistry
from localcluster import paths, waiting
from localcluster.bench import gateway, record
from localcluster.fakes import gateway_world
from localcluster.fakes.placement_callers import Load, Result

if TYPE_CHECKING:
    from localcluster.operator_process import OperatorProcess

PODS_PER_SERVICE: Final = 100
DECISIONS: Final = 100_000


def decisions(pods: int, services: int) -> dict[str, float]:
    """Measure decisions without sockets: each reserves a slot; 100 sessions end together."""
    registry = PodRegistry()
    for number in range(pods):
        name, service = f"p{number}", f"bench/s{number % services}"
        pod = Pod("bench", name, name, service, "10.0.0.1", 8080, 9090, terminating=False)
        registry.set_pod(pod)
        registry.update_state(pod, State(8, 0, 8, draining=False, ready=True, sequence=1, at=0.0))
    delays, placed = [], []
    started = time.process_time()
    for number in range(DECISIONS):
        begun = time.perf_counter()
        found = registry.pods_of(f"bench/s{number % services}").order(0.0)
        assert not isinstance(found, Shortage)
        placed.append(registry.add_placement(found[0]))
        delays.append(time.perf_counter() - begun)
        if len(placed) == PODS_PER_SERVICE:
            for placement in placed:
                registry.release(placement)
            placed = []
    cpu_s = time.process_time() - started
    figures = record.figures(delays)
    return {"cpu_us_each": round(1e6 * cpu_s / DECISIONS, 2), **figures}


async def _callers(load: Load) -> Result:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localcluster.fakes.placement_callers", json.dumps(asdict(load))),
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await process.communicate()
    return Result(**json.loads(answer))


async def _measure(gateways: list[OperatorProcess], load: Load) -> dict[str, Any]:
    before = [each.usage().cpu_s for each in gateways]
    result = await _callers(load)
    used = [each.usage().cpu_s - start for each, start in zip(gateways, before, strict=True)]
    cpu_ms = 1000 * sum(used) / max(1, result.opened)
    return {
        "opened": result.opened,
        "refused": result.refused,
        "failed": result.failed,
        "per_s": round(result.opened / result.duration_s, 1),
        "seconds_to_open": record.figures(result.delays),
        "gateway_cpu_ms_each": round(cpu_ms, 3),
        "per_s_of_two_full_cores": round(2 * 1000 / cpu_ms),
    }


async def run(pods: int, duration_s: float, folder: Path) -> dict[str, Any]:
    """Measure two gateways."""
    key, services = secrets.token_hex(16), max(1, pods // PODS_PER_SERVICE)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(gateway.running_world(pods, services))
        gateways = [
            await stack.enter_async_context(gateway.running_gateway(folder, api, key, f"g{number}"))
            for number in (1, 2)
        ]
        for each in gateways:
            await each.until_ready()

        async def streams() -> int:
            return (await gateway.counts(api)).get("streams", 0)

        await waiting.until(streams, lambda found: found == 2 * pods, "all pods are heard", 120)
        models = [
            f"{gateway_world.NAMESPACE}/{gateway_world.service_name(number)}"
            for number in range(services)
        ]
        load = Load([each.health for each in gateways], models, key, duration_s)
        rest = [each.usage().cpu_s for each in gateways]
        await asyncio.sleep(duration_s)
        resting = sum(
            each.usage().cpu_s - start for each, start in zip(gateways, rest, strict=True)
        )
        found: dict[str, Any] = {"rest_cpu_percent_of_a_core": round(100 * resting / duration_s, 1)}
        for name, measured in {
            "warm_up": replace(load, at_once=8),
            "at_500_per_s": replace(load, per_s=500.0, hold_s=1.0),
            "at_200_per_s": replace(load, per_s=200.0, hold_s=1.0),
            "as_fast_as_possible": replace(load, at_once=64),
        }.items():
            found[name] = await _measure(gateways, measured)
        counts = await gateway.counts(api)
    return {
        "pods": pods,
        "services": services,
        "simulated": "the API server and the pods",
        "decision": decisions(pods, services),
        **found,
        "refused_by_full_pods": counts["over_capacity"],
        "restarts": sum(each.restarts for each in gateways),
    }


def main() -> int:
    """Run the benchmark and write its record; fail if a caller was refused."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.placement", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--duration-s", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(run(options.pods, options.duration_s, Path(folder)))
    record.write(options.out, 0, "8 callers for the duration of a run", results)
    print(json.dumps(results), flush=True)
    return 1 if results["restarts"] or results["at_500_per_s"]["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
