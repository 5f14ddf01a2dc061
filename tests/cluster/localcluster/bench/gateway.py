"""One gateway that hears 1,000 pods: time until all are heard, memory, CPU time, callers.

Each pod is the only pod of its service and sends its state once a second, as an idle runtime does.
The API server and the pods are fakes in one other process (`localcluster.fakes.gateway_world`), so
that only the share of the gateway is measured. Then one caller of each service opens a session.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from localcluster import operator_process, paths, waiting
from localcluster.bench import record
from localcluster.controlplane import ports, processes
from localcluster.fakes import gateway_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from localcluster.operator_process import OperatorProcess

AT_ONCE: Final = 50
"""Callers that connect at the same time."""


@contextlib.asynccontextmanager
async def running_world(
    pods: int,
    services: int = 0,
    sessions_port: int = 0,
    objects: Mapping[str, Any] | None = None,
) -> AsyncIterator[str]:
    """Run the fakes (see `World`); yield the address of their API server.

    With `sessions_port`, the sessions of the pods go to another process at this port.
    """
    (port,) = ports.find_free(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localcluster.fakes.gateway_world"),
        *map(str, (pods, port, services, sessions_port)),
        json.dumps(objects or {}),
        preexec_fn=processes.die_with_parent,
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await waiting.until(lambda: counts(url), bool, "the fakes are up")
        yield url
    finally:
        process.terminate()
        await process.wait()


async def counts(url: str) -> dict[str, int]:
    """Return the counts of the fakes; nothing before they are up."""
    async with aiohttp.ClientSession() as http:
        try:
            async with http.get(f"{url}/streams") as answer:
                found: dict[str, int] = await answer.json(content_type=None)
        except aiohttp.ClientError:
            return {}
    return found


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path,
    api: str,
    key: str,
    name: str = "gateway",
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[OperatorProcess]:
    """Run a gateway; its address is `health`. `settings` are further environment variables."""
    path = folder / "kubeconfig"
    context = {"cluster": "c", "user": "u"}
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": api}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": context}],
    }))  # fmt: skip
    sessions, admin = ports.find_free(2)
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(path),
        "AVATAR_API_KEY": key,
        "AVATAR_CONTROL_MASTER": secrets.token_hex(16),
        "AVATAR_POD": name,
        "AVATAR_HEALTH_LISTEN": f"127.0.0.1:{sessions}",
        "AVATAR_GATEWAY_KEYS_NAMESPACE": gateway_world.NAMESPACE,
        "AVATAR_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "4096",
        **(settings or {}),
    }
    argv = (
        *(sys.executable, "-m", "avatar_gateway", "serve"),
        *(f"--listen=127.0.0.1:{sessions}", f"--admin=127.0.0.1:{admin}"),
    )
    gateway = operator_process.OperatorProcess(folder / f"{name}.log", argv, environment)
    running = asyncio.create_task(gateway.run(), name=name)
    try:
        yield gateway
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def run(pods: int, rest_s: float, folder: Path) -> dict[str, Any]:
    """Measure one gateway."""
    key = secrets.token_hex(16)
    async with running_world(pods) as api, running_gateway(folder, api, key) as gateway:
        await gateway.until_ready()
        started, base = time.monotonic(), _usage(gateway)

        async def streams() -> int:
            return (await counts(api))["streams"]

        await waiting.until(streams, lambda found: found == pods, "all pods are heard", 120)
        heard_s = round(time.monotonic() - started, 2)
        heard = _usage(gateway)
        await asyncio.sleep(rest_s)
        rest = _usage(gateway)
        callers = await _call_all(gateway, api, key, pods)
    return {
        "pods": pods,
        "simulated": "the API server and the pods; one service for each pod",
        "seconds_from_ready_until_all_are_heard": heard_s,
        "ready": base,
        "heard": heard,
        "rest_s": rest_s,
        "rest_cpu_percent_of_a_core": round(100 * (rest["cpu_s"] - heard["cpu_s"]) / rest_s, 2),
        "kib_per_pod": round(1024 * (rest["rss_mib"] - base["rss_mib"]) / pods, 1),
        "callers": callers,
        "restarts": gateway.restarts,
    }


async def _call_all(gateway: OperatorProcess, api: str, key: str, pods: int) -> dict[str, Any]:
    """Open one session of each service, and count those that no pod got."""
    limit, refused, delays = asyncio.Semaphore(AT_ONCE), 0, list[float]()
    sockets = list[aiohttp.ClientWebSocketResponse]()  # open until the end
    before = _usage(gateway)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def call(number: int) -> None:
            nonlocal refused
            model = f"{gateway_world.NAMESPACE}/{gateway_world.service_name(number)}"
            url = f"http://{gateway.health}/v1/realtime?model={model}"
            async with limit:
                started = time.monotonic()
                try:
                    sockets.append(await http.ws_connect(url, headers={"api-key": key}))
                except aiohttp.WSServerHandshakeError:
                    refused += 1
                    return
                delays.append(time.monotonic() - started)

        await asyncio.gather(*(call(number) for number in range(pods)))
        found, usage = await counts(api), _usage(gateway)
    return {
        "opened": found["sessions"],
        "refused": refused,
        "seconds_to_open": record.figures(delays),
        "cpu_ms_each": round(1000 * (usage["cpu_s"] - before["cpu_s"]) / pods, 2),
        "kib_each": round(1024 * (usage["rss_mib"] - before["rss_mib"]) / pods, 1),
    }


def _usage(gateway: OperatorProcess) -> dict[str, float]:
    usage = gateway.usage()
    return {"cpu_s": round(usage.cpu_s, 2), "rss_mib": round(usage.rss_mib, 1)}


def main() -> int:
    """Run the benchmark and write its record; fail if a pod was not heard or a caller refused."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.gateway", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--rest-s", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(run(options.pods, options.rest_s, Path(folder)))
    record.write(options.out, 0, "none: the start is measured", results)
    print(json.dumps(results), flush=True)
    callers = results["callers"]
    return 0 if callers["opened"] == options.pods and not callers["refused"] else 1


if __name__ == "__main__":
    sys.exit(main())
