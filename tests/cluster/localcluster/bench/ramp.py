"""A ramp from 0 to 30 sessions and back to 0 on process nodes, with a plot of the record.

Everything is real except the GPUs: the chart, the gateway, runtime pods on simulated devices, and
the load generator, whose sessions talk, pause and end by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import paths, waiting
from localcluster.bench import record
from localcluster.controlplane.cluster import running
from localcluster.release import SYSTEM, Release, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE: Final = "tide"
EVERY_S: Final = 0.5
POLICY: Final = {
    "minReplicas": 0,
    "maxReplicas": 8,
    "freeSessions": {"min": 1, "percent": 10},
    "scaleDownAfterSeconds": 10,
    "scaleToZeroAfterSeconds": 10,
}
# Classes with few slots come first, so that many pods start and end: 2, 5 and 14 slots.
PLACEMENT: Final = {"gpuClasses": ["rtx-4090", "a100-80gb", "h100-80gb"]}
WORDS: Final = ("--utterance-s", "0.5", "--pause-s", "2")


@dataclass(frozen=True, slots=True)
class Sample:
    """The status of the service at one time."""

    at_s: float
    sessions: int
    slots: int
    wanted: int
    pods: int
    ready: int


async def run(sessions: int, over_s: float, state: Path) -> dict[str, Any]:
    """Add sessions over some seconds and remove them over the same time; return the samples."""
    async with running(state, nodes=paths.SIMULATED_NODES) as cluster:
        key = secrets.token_urlsafe(24)
        await cluster.helm(
            "install", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
            "--namespace", SYSTEM, "--create-namespace", "--set", f"gateway.apiKey.value={key}",
            "--wait", "--timeout", "180s",
        )  # fmt: skip
        address = await cluster.kubectl(
            "get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=gateway",
            "-o", "jsonpath={.items[0].status.podIP}",
        )  # fmt: skip
        space = Space(Release(cluster, f"{address}:8080", key), "ramp")
        await cluster.kubectl("create", "namespace", space.name)
        await space.apply(SERVICE, autoscaling=POLICY, placement=PLACEMENT)
        await waiting.until(
            lambda: space.service(SERVICE), lambda seen: "status" in seen, "the service is seen"
        )
        # Sessions end in order of arrival, so that both ramps have the same length.
        visits = state.parent / "visits.csv"
        lines = [f"{index * over_s / sessions:.2f},{over_s:.2f}" for index in range(sessions)]
        visits.write_text("\n".join(["arrival_s,duration_s", *lines]) + "\n")
        load = await space.load(
            SERVICE, sessions, over_s, "--visits", str(visits), "--wait-ms", "120000", *WORDS
        )
        ended = asyncio.create_task(load.communicate(), name="load")
        course = await _follow(space, ended)
        output, problems = ended.result()
    summary = json.loads(output) if output else {"failed": sessions, "problems": problems.decode()}
    return {
        "sessions": sessions,
        "ramp_s": over_s,
        "load": summary,
        "most_sessions": max(moment.sessions for moment in course),
        "most_pods": max(moment.pods for moment in course),
        "pods_at_the_end": course[-1].pods,
        "course": [asdict(moment) for moment in course],
        "real": "control plane, chart, gateway, runtime processes, load generator",
        "simulated": "GPUs",
    }


async def _follow(space: Space, ended: asyncio.Task[Any]) -> list[Sample]:
    """Sample the service until the last session and the last pod end."""
    started = time.monotonic()
    gone_by = None
    course: list[Sample] = []
    while True:
        status = (await space.service(SERVICE))["status"]
        numbers = ("sessions", "capacity", "desiredReplicas", "replicas", "readyReplicas")
        seen = [int(status.get(name) or 0) for name in numbers]
        course.append(Sample(round(time.monotonic() - started, 2), *seen))
        if ended.done():
            gone_by = gone_by or time.monotonic() + 90
            if course[-1].pods == 0 or time.monotonic() > gone_by:
                return course
        await asyncio.sleep(EVERY_S)


def plot(course: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Plot sessions and slots, and the pods below them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = [moment["at_s"] for moment in course]

    def of(name: str) -> list[int]:
        return [moment[name] for moment in course]

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6.5))
    above.step(times, of("slots"), where="post", color="tab:green", label="slots on ready pods")
    above.fill_between(times, of("sessions"), step="post", alpha=0.35, color="tab:blue")
    above.step(times, of("sessions"), where="post", color="tab:blue", label="sessions")
    above.set_ylabel("sessions")
    below.step(times, of("wanted"), where="post", color="black", linestyle="--", label="wanted")
    below.step(times, of("pods"), where="post", color="tab:orange", label="there")
    below.step(times, of("ready"), where="post", color="tab:green", label="take sessions")
    below.set_ylabel("pods")
    below.set_xlabel("seconds")
    above.set_title(title)
    for axes in (above, below):
        axes.legend(loc="upper right")
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Run the benchmark, write its record and plot it; fail if a session did not end by itself."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.ramp", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--over-s", type=float, default=60.0, help="from none to all, and back")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        results = asyncio.run(run(options.sessions, options.over_s, Path(folder) / "cluster"))
    record.write(options.out, 0, "none", results)
    picture = options.out.with_suffix(".png")
    plot(results["course"], picture, f"0 to {options.sessions} to 0 sessions on simulated GPUs")
    load = results["load"]
    print(json.dumps({name: each for name, each in results.items() if name != "course"}, indent=2))
    print(picture)
    kept = load.get("done") == options.sessions and results["pods_at_the_end"] == 0
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
