"""Placements of two gateways that hear 1,000 pods: rate, time to open, processor time.

Services have 100 pods with 8 slots each. The API server and the pods are fakes in one process
(`localcluster.fakes.gateway_world`), the callers are in another one, and the gateways share a real
Redis. A placement is everything from a new connection to a session that a pod has accepted, and its
end; a direct one is the answer of `POST /v1/sessions`, on a connection of its own, or on those that
64 backends keep. All processes share the machine, so the processor time of each part for a
placement is measured, and the rate on two cores follows from that of the gateways. A gateway
without any rule shows what the sockets and the event loop take. The decision alone is measured in
this process: order the pods, reserve a slot, count its state. `localcluster.bench.flood` compares a
tenant with and without the flood of another.
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

from redis.asyncio import Redis

from avatar_contracts import direct_tokens
from avatar_gateway.core import api_keys
from avatar_gateway.core.model import Pod, State
from avatar_gateway.core.routing import Shortage
from avatar_gateway.pod_registry import PodRegistry
from localcluster import paths, waiting
from localcluster.bench import flood, gateway, record
from localcluster.bench.redis_folder import redis_server
from localcluster.controlplane import ports, processes
from localcluster.fakes import gateway_world
from localcluster.fakes.placement_callers import Load, Result

if TYPE_CHECKING:
    from localcluster.operator_process import OperatorProcess

PODS_PER_SERVICE: Final = 100
DECISIONS: Final = 100_000
AT_ONCE: Final = 64
FLOOD_PER_S: Final = 150.0
STEADY_PER_S: Final = 100.0
DIRECT_S: Final = 3.0
DIRECT_URL: Final = "wss://{pod}.pods.example/v1/realtime"


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


class _Parts:
    """The processes of the benchmark, for the processor time of each part."""

    def __init__(self, api: str, gateways: list[OperatorProcess], redis: Redis) -> None:
        self._api, self.gateways, self._redis = api, gateways, redis

    async def cpu_s(self) -> dict[str, float]:
        """Return the processor time of each part so far."""
        cpu = await self._redis.info("cpu")
        return {
            "gateways": sum(each.usage().cpu_s for each in self.gateways),
            "pods": (await gateway.counts(self._api))["cpu_s"],
            "redis": cpu["used_cpu_sys"] + cpu["used_cpu_user"],
        }

    async def measure(self, load: Load) -> dict[str, Any]:
        """Run callers, and return what they saw and what each part took for a placement."""
        before, tries = await self.cpu_s(), await gateway.counts(self._api)
        result = await _callers(load)
        after, tried = await self.cpu_s(), await gateway.counts(self._api)
        used = {name: after[name] - before[name] for name in after} | {"callers": result.cpu_s}
        cpu_ms = {name: 1000 * each / max(1, result.opened) for name, each in used.items()}
        return {
            "opened": result.opened,
            "refused": result.refused,
            "failed": result.failed,
            "refused_by_full_pods": tried["over_capacity"] - tries["over_capacity"],
            "most_sessions_of_a_pod": tried["most_sessions_of_a_pod"],
            "per_s": round(result.opened / result.duration_s, 1),
            "seconds_to_open": record.figures(result.delays),
            "cpu_ms_each": {name: round(each, 3) for name, each in cpu_ms.items()},
            "per_s_of_two_full_cores": round(2 * 1000 / cpu_ms["gateways"]),
            "per_s_of_two_cores_with_all_parts": round(2 * 1000 / sum(cpu_ms.values())),
        }


async def _floor(api: str, load: Load, pods: int) -> dict[str, Any]:
    """Measure a gateway without any rule (`localcluster.fakes.bare_gateway`)."""
    (port,) = ports.find_free(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localcluster.fakes.bare_gateway"),
        *(str(port), api.rpartition(":")[2], str(pods)),
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
        preexec_fn=processes.die_with_parent,
    )
    try:
        await waiting.until(lambda: ports.accepts(port), bool, "the bare gateway listens")
        before = processes.cpu_s(process.pid)
        result = await _callers(replace(load, gateways=[f"127.0.0.1:{port}"]))
        cpu_ms = 1000 * (processes.cpu_s(process.pid) - before) / max(1, result.opened)
    finally:
        process.terminate()
        await process.wait()
    return {"opened": result.opened, "refused": result.refused, "cpu_ms_each": round(cpu_ms, 3)}


def _tenants() -> tuple[dict[str, str], dict[str, Any]]:
    """Return the keys of the tenants, and their objects."""
    keys, entries, tenants = {}, {}, []
    for name, limits in (
        ("steady", {}),
        ("flood", {"sessions": 20}),
        ("leases", {"sessions": 5000, "sessionsPerService": 4000}),
    ):
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


async def run(
    pods: int, duration_s: float, pairs: int, folder: Path, redis_url: str
) -> dict[str, Any]:
    """Measure two gateways."""
    key, services = secrets.token_hex(16), max(1, pods // PODS_PER_SERVICE)
    tenant_keys, objects = _tenants()
    settings = {
        "AVATAR_GATEWAY_SHARED_STATE_URL": redis_url,
        "AVATAR_GATEWAY_DIRECT_URL": DIRECT_URL,
    }
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            gateway.running_world(pods, services, objects=objects)
        )
        gateways = [
            await stack.enter_async_context(
                gateway.running_gateway(folder, api, key, f"g{number}", settings)
            )
            for number in (1, 2)
        ]
        for each in gateways:
            await each.until_ready()

        async def streams() -> int:
            return (await gateway.counts(api)).get("streams", 0)

        await waiting.until(streams, lambda found: found == 2 * pods, "all pods are heard", 300)
        redis = await stack.enter_async_context(Redis.from_url(redis_url))
        parts = _Parts(api, gateways, redis)
        models = [
            f"{gateway_world.NAMESPACE}/{gateway_world.service_name(number)}"
            for number in range(services)
        ]
        load = Load([each.health for each in gateways], models, key, duration_s)
        before = await parts.cpu_s()
        await asyncio.sleep(duration_s)
        after = await parts.cpu_s()
        found: dict[str, Any] = {
            "rest_cpu_percent_of_a_core": {
                name: round(100 * (after[name] - before[name]) / duration_s, 1) for name in after
            }
        }
        with_leases = replace(load, key=tenant_keys["leases"])
        for name, measured in {
            "warm_up": replace(load, at_once=8),
            "at_500_per_s": replace(load, per_s=500.0, hold_s=1.0),
            "at_200_per_s": replace(load, per_s=200.0, hold_s=1.0),
            "as_fast_as_possible": replace(load, at_once=AT_ONCE),
            "as_fast_as_possible_with_leases": replace(with_leases, at_once=AT_ONCE),
        }.items():
            found[name] = await parts.measure(measured)
        found["without_any_rule"] = await _floor(api, replace(load, at_once=AT_ONCE), pods)
        steady = replace(load, key=tenant_keys["steady"], per_s=STEADY_PER_S, hold_s=0.5)
        flood_load = replace(
            load,
            key=tenant_keys["flood"],
            models=models[:1],
            per_s=FLOOD_PER_S,
            query="&wait_ms=600000",
        )
        if pairs:
            found["flood"] = await flood.measure(_callers, steady, flood_load, pairs)
        # Last, because each reserves a slot for 20 s that nobody uses.
        direct = replace(load, is_direct=True, at_once=AT_ONCE, duration_s=DIRECT_S)
        found["direct"] = await parts.measure(direct)
        await asyncio.sleep(direct_tokens.TTL_S)  # the reserved slots are free again
        kept = replace(direct, keeps_connection=True)
        found["direct_on_kept_connections"] = await parts.measure(kept)
    return {
        "pods": pods,
        "services": services,
        "simulated": "the API server and the pods",
        "decision": decisions(pods, services),
        **found,
        "restarts": sum(each.restarts for each in gateways),
    }


def main() -> int:
    """Run the benchmark and write its record; fail if a caller was refused."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.placement", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=20, help="of windows with and without flood")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder, redis_server() as url:
        results = asyncio.run(
            run(options.pods, options.duration_s, options.pairs, Path(folder), url)
        )
    record.write(options.out, 0, "8 callers for the duration of a run", results)
    print(json.dumps(results), flush=True)
    return 1 if results["restarts"] or results["at_500_per_s"]["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
