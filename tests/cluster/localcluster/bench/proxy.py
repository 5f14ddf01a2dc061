"""Processor time of the gateway for each message that it forwards, beside nginx and haproxy.

The same sessions pass through each proxy in turn, several rounds in one run, so that what the
machine does besides falls on all of them. nginx and haproxy have one worker, as the gateway has,
and buffers that hold a video frame. They count, limit and check nothing of what they forward.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import paths, waiting
from localcluster.bench import gateway, record
from localcluster.controlplane import ports, processes
from localcluster.fakes import gateway_world, media_load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

PODS: Final = 32
"""Each accepts eight sessions."""
GOAL: Final = 1.5
"""Times the processor time of nginx."""
_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://{pod}:{pods};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_read_timeout 1h;
      proxy_buffer_size {buffer};
      proxy_buffers 8 {buffer};
      proxy_busy_buffers_size {buffer};
    }}
  }}
}}
"""
_HAPROXY: Final = """
global
  nbthread 1
  maxconn 4096
  tune.bufsize {buffer}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
listen sessions
  bind 127.0.0.1:{port}
  server pod {pod}:{pods}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    pid: int
    key: str = "none"

    def cpu_s(self) -> float:
        """Return the processor time of its processes, to the microsecond."""
        family, found = [self.pid], 0
        for pid in family:
            tasks = Path(f"/proc/{pid}/task")
            for task in tasks.iterdir():
                family += map(int, (task / "children").read_text().split())
                found += int((task / "schedstat").read_text().split()[0])
        return found / 1e9

    def rss_mib(self) -> float:
        """Return the memory of its first process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.asynccontextmanager
async def foreign(
    name: str, template: str, command: Sequence[str], pods: int, buffer: str, folder: Path
) -> AsyncIterator[Proxy]:
    """Run nginx or haproxy."""
    (port,) = ports.find_free(1)
    path = folder / f"{name}.conf"
    pod = gateway_world.address(0)
    path.write_text(
        template.format(folder=folder, port=port, pods=pods, pod=pod, buffer=buffer).lstrip()
    )
    process = await asyncio.create_subprocess_exec(
        *command, str(path), preexec_fn=processes.die_with_parent
    )
    try:
        await waiting.until(lambda: ports.accepts(port), bool, f"{name} listens")
        yield Proxy(name, port, process.pid)
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def ours(
    name: str, api: str, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Proxy]:
    """Run the gateway."""
    key = secrets.token_hex(16)
    (folder / name).mkdir()
    async with gateway.running_gateway(folder / name, api, key, "gateway", environment) as process:
        await process.until_ready()
        yield Proxy(name, int(process.health.rpartition(":")[2]), process.pid, key)


async def measure(proxy: Proxy, pods: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one proxy once."""
    services = (gateway_world.service_name(number) for number in range(PODS))
    urls = [f"--path=/v1/realtime?model={gateway_world.NAMESPACE}/{name}" for name in services]
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localcluster.fakes.media_load"),
        *(f"--listen={pods}", f"--to=127.0.0.1:{proxy.port}", f"--key={proxy.key}", *urls),
        *(f"--sessions={options.sessions}", f"--seconds={options.seconds}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=processes.die_with_parent,
        env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
    )
    assert load.stdin is not None
    assert load.stdout is not None
    if await load.stdout.readline() != b"open\n":
        raise SystemExit(f"the sessions through {proxy.name} did not open")
    before = proxy.cpu_s()
    load.stdin.write(b"\n")
    found = json.loads(await load.stdout.readline())
    cpu_s, rss = proxy.cpu_s() - before, proxy.rss_mib()
    await load.wait()
    return {
        "proxy": proxy.name,
        "cpu_us_per_message": round(1e6 * cpu_s / found["messages"], 2),
        "cpu_s": round(cpu_s, 3),
        "rss_mib": round(rss, 1),
        **found,
    }


async def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure all proxies in turn, and return the rows."""
    rows: list[dict[str, Any]] = []
    (pods,) = ports.find_free(1)
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(gateway.running_world(PODS, 0, pods))
        proxies = [await stack.enter_async_context(ours("gateway", api, folder, {}))]
        for each in options.gateway:
            name, _, settings = each.partition("=")
            environment = dict(pair.split("=", 1) for pair in settings.split(",") if pair)
            proxies.append(await stack.enter_async_context(ours(name, api, folder, environment)))
        nginx = (_NGINX, ("nginx", "-e", str(folder / "nginx.log"), "-c"))
        haproxy = (_HAPROXY, ("haproxy", "-db", "-f"))
        for name, (template, command), buffer in (
            ("nginx", nginx, "64k"),
            ("nginx-default", nginx, "4k"),
            ("haproxy", haproxy, "65536"),
            ("haproxy-default", haproxy, "16384"),
        ):
            if name in options.others.split(","):
                proxies.append(
                    await stack.enter_async_context(
                        foreign(name, template, command, pods, buffer, folder)
                    )
                )
        for number in range(options.rounds):
            for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
                rows.append({"round": number, **await measure(proxy, pods, options)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians of each proxy, and its ratios to nginx in the same round."""
    names = list(dict.fromkeys(row["proxy"] for row in rows))
    result: dict[str, Any] = {}
    for name in names:
        own = sorted((row for row in rows if row["proxy"] == name), key=lambda row: row["round"])
        figures = [row["cpu_us_per_message"] for row in own]
        result[name] = {
            "cpu_us_per_message": {
                "median": round(statistics.median(figures), 2),
                "least": min(figures),
                "most": max(figures),
            },
            "delay_ms_p50": round(statistics.median(row["delay_ms"]["p50"] for row in own), 3),
            "delay_ms_p99": round(statistics.median(row["delay_ms"]["p99"] for row in own), 3),
        }
        for other in ("nginx", "haproxy"):
            base = {
                row["round"]: row["cpu_us_per_message"] for row in rows if row["proxy"] == other
            }
            if base and name != other:
                ratios = [row["cpu_us_per_message"] / base[row["round"]] for row in own]
                result[name][f"times_{other}"] = {
                    "median": round(statistics.median(ratios), 2),
                    "least": round(min(ratios), 2),
                    "most": round(max(ratios), 2),
                }
    return result


def main() -> int:
    """Run the benchmark and write its record; fail if the gateway needs more than `GOAL`."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.proxy", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", default="nginx,nginx-default,haproxy,haproxy-default")
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        help="NAME=VARIABLE=VALUE,...: also a gateway with other settings, or of another checkout",
    )
    options = parser.parse_args()
    missing = [name for name in ("nginx", "haproxy") if shutil.which(name) is None]
    if missing:
        parser.error(f"these programs are missing: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        rows = asyncio.run(run(options, Path(folder)))
    results = summary(rows)
    about = {name: getattr(options, name) for name in ("sessions", "seconds", "rounds")}
    rates = {
        "video": media_load.VIDEO,
        "speech": media_load.SPEECH,
        "microphone": media_load.MICROPHONE,
    }
    record.write(
        options.out,
        0,
        "2 s of each measurement",
        {
            **about,
            "messages_per_s_and_bytes": rates,
            "goal": GOAL,
            "summary": results,
            "rows": rows,
        },
    )
    print(json.dumps(results, indent=2), flush=True)
    ratio = results["gateway"].get("times_nginx", {"median": 0.0})["median"]
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
