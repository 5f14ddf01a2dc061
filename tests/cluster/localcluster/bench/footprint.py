"""The memory, CPU time and requests of the operator, compared with a bare kopf operator.

The API server is a fake without etcd, scheduler and kubelets (`localcluster.fakes.api_server`) in
its own process, so that only the share of the operator is measured. The results are CPU times and
request counts; wall times are not meaningful. With `--streams`, each pod has a state stream with
one line per second, as an idle runtime has; without it, no pod is reachable.
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

import aiohttp
import yaml

from localcluster import operator_process, paths, waiting
from localcluster.bench import plan, record
from localcluster.controlplane import ports, processes
from localcluster.fakes import api_server, kwok

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.operator_process import OperatorProcess

SEED: Final = 1
QUIET_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the benchmark."""

    services: int
    replicas: int
    changes: int
    rate: float
    rest_s: float
    limit_s: float
    streams: bool


class Fake:
    """The client that controls the fake API server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def do(self, what: str, **more: Any) -> Any:
        async with self._session.post(f"{self.url}/control", json={"do": what, **more}) as answer:
            return await answer.json()

    async def requests(self) -> dict[str, int]:
        """Return the number of requests of each kind."""
        return dict(sorted((await self.do("counts")).items()))

    async def writes(self) -> int:
        """Return the number of writes, without those of the Lease."""
        counts = await self.requests()
        reads = ("get", "list", "patch leases", "post leases")
        return sum(count for kind, count in counts.items() if kind not in reads)


@contextlib.asynccontextmanager
async def serving(streams: bool) -> AsyncIterator[Fake]:
    """Run the fake API server."""
    (port,) = ports.find_free(1)
    argv = (sys.executable, "-m", "localcluster.fakes.api_server", str(port))
    process = await asyncio.create_subprocess_exec(
        *argv, "streams" if streams else "none", preexec_fn=processes.die_with_parent,
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            fake = Fake(session, f"http://127.0.0.1:{port}")

            async def up() -> bool:
                try:
                    await fake.requests()
                except aiohttp.ClientError:
                    return False
                return True

            await waiting.until(up, bool, "the fake API server is up", 30)
            yield fake
    finally:
        process.terminate()
        await process.wait()


async def run(size: Size, folder: Path) -> dict[str, Any]:
    """Run the operator, then the bare kopf operator, each against a fake with equal objects."""
    results: dict[str, Any] = {
        "services": size.services,
        "pods": size.services * size.replicas,
        "simulated": "the API server, nodes and pods"
        + ("; each pod's stream says a line a second" if size.streams else "; no stream is there"),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }
    for name, module in (("operator", "avatar_operator"), ("bare_kopf", "localcluster.bench.bare")):
        async with serving(size.streams) as fake:
            results[name] = await _measure(fake, module, size, folder)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    ours, bare = results["operator"], results["bare_kopf"]
    extra_s = ours["settled"]["cpu_s"] - ours["before"]["cpu_s"]
    results["cpu_ms_per_service"] = round(1000 * extra_s / size.services, 2)
    results["change_cpu_ms_beyond_bare"] = round(
        ours["change"]["cpu_ms_each"] - bare["change"]["cpu_ms_each"], 2
    )
    results["kib_per_pod"] = round(
        1024 * (ours["settled"]["rss_mib"] - ours["before"]["rss_mib"]) / results["pods"], 1
    )
    results["ratio_to_baseline"] = {
        "rss": round(ours["settled"]["rss_mib"] / bare["settled"]["rss_mib"], 2),
        "cold_cpu": round(ours["settled"]["cpu_s"] / bare["settled"]["cpu_s"], 1),
    }
    return results


async def _measure(fake: Fake, module: str, size: Size, folder: Path) -> dict[str, Any]:
    await fake.do("nodes", count=-(-size.services * size.replicas // kwok.GPUS) + 1)
    for path in sorted((paths.REPOSITORY / "crds").glob("*.yaml")):
        await fake.do("put", path=api_server.CRDS, body=yaml.safe_load(path.read_text()))
    for profile in plan.profile_bodies():
        await fake.do("put", path=api_server.PROFILES, body=profile)
    async with _operating(fake, module, folder) as operator:
        found: dict[str, Any] = {"before": _usage(operator)}
        for number in range(size.services):
            await fake.do("put", path=api_server.SERVICES, body=_service(number, size.replicas))
        found["wall_s"] = await _settle(fake, operator, size)
        found["settled"] = _usage(operator)
        found["asked"] = await fake.requests()
        found["change"] = change = await _change(fake, operator, size)
        found["rest"] = rest = await _rest(fake, operator, size)
        idle_s = rest["cpu_percent_of_a_core"] / 100 * change["seconds"]
        change["cpu_ms_each"] = round(1000 * (change["cpu_s"] - idle_s) / size.changes, 2)
    return found


async def _settle(fake: Fake, operator: OperatorProcess, size: Size) -> float:
    """Wait until every service is settled and nothing is written; return the seconds."""
    started = time.monotonic()

    async def unsettled() -> int:
        await asyncio.sleep(1)
        return int(await fake.do("unsettled"))

    message = f"every service is settled (see {operator.log})"
    await waiting.until(unsettled, lambda count: not count, message, size.limit_s)
    seconds = time.monotonic() - started
    writes = -1
    while (now := await fake.writes()) != writes:
        writes = now
        await asyncio.sleep(QUIET_S)
    return round(seconds, 1)


async def _change(fake: Fake, operator: OperatorProcess, size: Size) -> dict[str, float]:
    """Change specs at the given rate without adding or removing a pod; return the usage."""
    services = await fake.do("services")
    before, writes = operator.usage(), await fake.writes()
    started = time.monotonic()
    for number, body in enumerate(random.Random(SEED).sample(services, size.changes)):
        body["spec"]["placement"]["strategy"] = "cheapest"
        body["metadata"]["generation"] += 1
        await asyncio.sleep(max(0.0, started + number / size.rate - time.monotonic()))
        await fake.do("put", path=api_server.SERVICES, body=body, event_type="MODIFIED")
    await _settle(fake, operator, size)
    return {
        "changes": size.changes,
        "writes": await fake.writes() - writes,
        "cpu_s": round(operator.usage().cpu_s - before.cpu_s, 2),
        "seconds": round(time.monotonic() - started, 1),
    }


async def _rest(fake: Fake, operator: OperatorProcess, size: Size) -> dict[str, float]:
    before, writes = operator.usage(), await fake.writes()
    started = time.monotonic()
    await asyncio.sleep(size.rest_s)
    seconds = time.monotonic() - started
    used = operator.usage().cpu_s - before.cpu_s
    return {
        "seconds": round(seconds, 1),
        "writes": await fake.writes() - writes,
        "cpu_percent_of_a_core": round(100 * used / seconds, 2),
        **_usage(operator),
    }


def _usage(operator: OperatorProcess) -> dict[str, float]:
    usage = operator.usage()
    return {
        "cpu_s": round(usage.cpu_s, 2),
        "rss_mib": round(usage.rss_mib, 1),
        "peak_rss_mib": round(usage.peak_rss_mib, 1),
    }


def _service(number: int, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarService",
        "metadata": {"name": f"s{number:05}", "namespace": f"scale-{number // 100}",
                     "generation": 1},
        "spec": {"replicas": replicas, "placement": {"gpuClasses": ["rtx-4090"]}},
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _operating(fake: Fake, module: str, folder: Path) -> AsyncIterator[OperatorProcess]:
    path = folder / "kubeconfig"
    cluster, context = {"server": fake.url}, {"cluster": "c", "user": "u"}
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": context}],
    }))  # fmt: skip
    async with operator_process.started_at(folder, path, module) as operator:
        await operator.until_ready()
        yield operator


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.footprint", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=4, help="pods of a service")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second")
    parser.add_argument("--rest-s", type=float, default=30.0)
    parser.add_argument("--limit-s", type=float, default=900.0, help="for each wait")
    parser.add_argument("--streams", action="store_true", help="let every pod be heard of")
    options = parser.parse_args()
    size = Size(
        options.services, options.replicas, min(options.changes, options.services), options.rate,
        options.rest_s, options.limit_s, options.streams,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(run(size, Path(folder)))
    record.write(options.out, SEED, "none: cold start is measured", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
