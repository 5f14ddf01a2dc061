"""`make bench`: runs every CPU benchmark in turn; each one writes a JSON file.

To add a benchmark, add a row to `BENCHES`. Its command receives `--out FILE` for its record.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localcluster import paths


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark."""

    name: str
    """The name, also of the output file."""
    module: str
    arguments: tuple[str, ...] = ()
    what: str = ""
    out: str = "--out"
    """The option for the output file."""
    is_long: bool = False
    """Whether it runs only with `--only NAME`."""


BENCHES: Final = (
    Bench("plan", "localcluster.bench.plan", what="decisions of the operator a second"),
    Bench("scale", "localcluster.bench.scale", what="services on kwok nodes, beside bare kopf"),
    Bench("footprint", "localcluster.bench.footprint", what="memory and CPU of the operator alone"),
    Bench(
        "idle",
        "localcluster.bench.footprint",
        ("--services", "200", "--replicas", "5", "--streams"),
        what="the operator at rest, 1,000 pods telling it so each second",
    ),
    Bench("gateway", "localcluster.bench.gateway", what="one gateway that hears 1,000 pods"),
    Bench(
        "proxy",
        "localcluster.bench.proxy",
        what="processor time for each message beside nginx and haproxy, which must be installed",
        is_long=True,
    ),
    Bench("placement", "localcluster.bench.placement", what="placements of two gateways a second"),
    Bench("quota", "localcluster.bench.quota", what="limits of tenants over three gateways"),
    Bench("usage", "localcluster.bench.usage", what="totals of usage while gateways are killed"),
    Bench(
        "model-cache",
        "localcluster.bench.model_cache",
        what="the start of a pod with an empty and with a filled cache of models",
        out="--json",
    ),
    Bench(
        "chart-checks",
        "localcluster.bench.chart",
        what="the chart against the schemas of Kubernetes releases, which are downloaded",
        is_long=True,
    ),
    Bench("failover", "localcluster.bench.failover", what="100 killed leaders, 10 clean stops"),
    Bench(
        "engine",
        "avatar_runtime",
        ("bench", "--preset", "tiny", "--device", "cpu"),
        what="the engine with seeded weights on the CPU, and 8 sessions beside the bare model",
        out="--json",
    ),
    Bench(
        "realtime", "localcluster.bench.realtime", what="sessions on the CPU, as callers see them"
    ),
    Bench(
        "preparation",
        "localcluster.bench.preparation",
        what="processor time of a preparation besides the model, for each kind of source",
    ),
    Bench(
        "soak",
        "localcluster.bench.soak",
        what="half an hour of speech: memory and gaps",
        is_long=True,
    ),
    Bench("live", "localcluster.bench.live", what="callers with microphones, on a late pod"),
    Bench(
        "live-talk",
        "localcluster.bench.live",
        ("--minutes", "20"),
        what="the same, and one caller who talks for 20 minutes",
        is_long=True,
    ),
    Bench(
        "turn-detection",
        "localcluster.bench.turn_detection",
        what="turns found in speech and noise; needs espeak-ng, flite and pocketsphinx-testdata",
        is_long=True,
    ),
    Bench(
        "bridge-fuzz",
        "localcluster.bench.protocol_fuzz",
        ("--mode", "bridge"),
        what="1,000,000 random messages of clients and upstreams against bridges",
        is_long=True,
    ),
    Bench(
        "protocol-fuzz",
        "localcluster.bench.protocol_fuzz",
        what="1,000,000 random messages against the protocol of sessions",
        is_long=True,
    ),
    Bench("video", "localcluster.bench.video", what="each form of video: bytes, CPU, quality"),
    Bench(
        "background",
        "localcluster.bench.background",
        what="a key colour and alpha: bytes, CPU, and quality at the edge",
    ),
    Bench(
        "video-settings",
        "localcluster.bench.video_settings",
        what="settings of the H.264 encoder: bytes, CPU, quality",
    ),
    Bench(
        "slow-clients",
        "localcluster.bench.slow_clients",
        what="20 clients of 1 Mbit/s each, and 20 that stop reading, in virtual time",
    ),
    Bench(
        "slow-sockets",
        "localcluster.bench.slow_sockets",
        what="the same on sockets; needs a machine that does nothing else",
        is_long=True,
    ),
    Bench(
        "transport", "localcluster.bench.transport", what="media as JSON and as binary: CPU, bytes"
    ),
    Bench("interruptions", "localcluster.bench.interruptions", what="8 callers interrupt"),
    Bench("faults", "localcluster.bench.faults", what="convergence under API faults, 200 seeds"),
    Bench(
        "shared",
        "localcluster.bench.shared",
        what="20 services of 3 tenants want 12 GPUs of 3 classes, 100 seeds",
    ),
    Bench("step", "localcluster.bench.step", what="callers come ten times as often; silence"),
    Bench("ramp", "localcluster.bench.ramp", what="0 to 30 to 0 sessions on process nodes, drawn"),
    Bench("collector", "localcluster.bench.collector", what="1,000 idle pods, and a core"),
    Bench("scaling", "localcluster.bench.scaling", what="1,000 made worlds, and traces by rivals"),
)

SIZED: Final = ("scale", "footprint")
"""The benchmarks that accept `--services`."""


def main() -> int:
    """Run the selected benchmarks; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="localcluster.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=paths.REPOSITORY / "build" / "bench")
    parser.add_argument("--only", action="append", choices=[bench.name for bench in BENCHES])
    parser.add_argument("--services", type=int, help="of scale and footprint, for example 10000")
    parser.add_argument("--soak-minutes", type=float, default=30.0, help="of the soak benchmark")
    options = parser.parse_args()
    failed = []
    usual = [bench.name for bench in BENCHES if not bench.is_long]
    for bench in BENCHES:
        if bench.name not in (options.only or usual):
            continue
        extra: tuple[str, ...] = ()
        if bench.name in SIZED and options.services:
            extra = ("--services", str(options.services))
        elif bench.name == "soak":
            extra = ("--minutes", str(options.soak_minutes))
        record = options.out / f"{bench.name}.json"
        print(f"== {bench.name}: {bench.what}", flush=True)
        started = time.monotonic()
        if run(bench, record, extra):
            failed.append(bench.name)
        print(f"   {time.monotonic() - started:.0f} s, {record}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(bench: Bench, record: Path, extra: tuple[str, ...]) -> int:
    """Run one benchmark in its own process; return the exit status."""
    argv = [sys.executable, "-m", bench.module, *bench.arguments, *extra, bench.out, str(record)]
    inherited = os.environ.get("PYTHONPATH")
    search = os.pathsep.join(filter(None, (str(paths.MODULE), inherited)))
    return subprocess.run(argv, env={**os.environ, "PYTHONPATH": search}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
