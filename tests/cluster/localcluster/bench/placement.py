"""Placements of two gateways that hear 1,000 pods: rate, time to open, CPU time of the gateways.

Services have 100 pods with 8 slots each. The API server and the pods are fakes in one process
(`localcluster.fakes.gateway_world`), the callers are in another one. A placement is everything from
a new connection to a session that a pod has accepted, and its end. All processes share the machine,
so the rate on two cores follows from the processor time of the gateways, which is measured as well.
The decision alone is measured in this process: order the pods, reserve a slot, count its state.

With two tenants, one floods a service: it has its quota of sessions, and hundreds of callers that
wait for more. What the other one sees is measured in turns, with and without the flood.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
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

from avatar_gateway.core import api_keys
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
FLOOD: Final = 900
"""Callers of one tenant that wait at each of two gateways together."""
FLOOD_PER_S: Final = 150.0
STEADY_PER_S: Final = 50.0
TURNS: Final = 3


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


def _tenants() -> tuple[dict[str, str], dict[str, Any]]:
    """Return the keys of two tenants, and their objects."""
    keys, entries, tenants = {}, {}, []
    for name, limits in (("steady", {}), ("flood", {"sessions": 20})):
        key_id, keys[name] = api_keys.new_key(
            secrets.token_bytes(api_keys.KEY_BYTES), secrets.token_bytes(api_keys.ID_BYTES)
        )
        text = api_keys.entry_of(keys[name], secrets.token_bytes(16))
        metadata = {"namespace": gateway_world.NAMESPACE, "name": name, "resourceVersion": "1"}
        data = {key_id: base64.b64encode(text.encode()).decode()}
        entries[name] = {"metadata": metadata, "data": data}
        spec = {
            "access": {"namespaces": [gateway_world.NAMESPACE]},
            "apiKeys": {"secretRefs": [{"name": name}]},
            "limits": limits,
        }
        tenants.append(
            {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": spec}
        )
    namespace = {"metadata": {"name": gateway_world.NAMESPACE, "resourceVersion": "1"}}
    objects = {
        "avatartenants": tenants,
        "secrets": list(entries.values()),
        "namespaces": [namespace],
    }
    return keys, objects


async def _flood(gateways: list[OperatorProcess], steady: Load, flood: Load) -> dict[str, Any]:
    """Measure a tenant in turns without and with the flood of another one."""
    delays: dict[str, list[float]] = {"alone": [], "with_flood": []}
    refused = waiting_callers = 0
    for _ in range(TURNS):
        found = await _callers(steady)
        delays["alone"] += found.delays
        refused += found.refused + found.failed
        flooding = asyncio.create_task(_callers(flood), name="flood")
        await asyncio.sleep(flood.duration_s + 1)  # all of them wait
        found = await _callers(steady)
        delays["with_flood"] += found.delays
        refused += found.refused + found.failed
        waiting_callers += (await flooding).opened
        await asyncio.sleep(1)
    shown = {name: record.figures(each) for name, each in delays.items()}
    return {
        "turns": TURNS,
        "callers_that_flood_each_turn": round(waiting_callers / TURNS),
        "refused_of_the_other": refused,
        "seconds_to_open": shown,
        "p99_ratio": round(shown["with_flood"]["p99"] / shown["alone"]["p99"], 3),
        "median_ratio": round(shown["with_flood"]["median"] / shown["alone"]["median"], 3),
    }


async def run(pods: int, duration_s: float, folder: Path) -> dict[str, Any]:
    """Measure two gateways."""
    key, services = secrets.token_hex(16), max(1, pods // PODS_PER_SERVICE)
    tenant_keys, objects = _tenants()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            gateway.running_world(pods, services, objects=objects)
        )
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
        steady = replace(load, key=tenant_keys["steady"], per_s=STEADY_PER_S, hold_s=0.5)
        flood_s = FLOOD / FLOOD_PER_S
        flood = replace(
            load,
            key=tenant_keys["flood"],
            models=models[:1],
            per_s=FLOOD_PER_S,
            duration_s=flood_s,
            hold_s=duration_s + flood_s + 2,
            query="&wait_ms=600000",
        )
        found["flood"] = await _flood(gateways, steady, flood)
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
