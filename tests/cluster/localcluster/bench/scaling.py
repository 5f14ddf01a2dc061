"""How the number of pods follows generated callers: seeds with faults, and traces with baselines.

The seeds search for a session that the operator ended. The traces measure the cost of headroom and
of the protection of sessions, compared with the optimum and with two known autoscalers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_operator.cli import simulate
from avatar_operator.core.autoscaling import capacity, scaling
from avatar_operator.core.autoscaling.observation import Demand, Observation
from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.simulator import scenario, traces
from avatar_operator.simulator.world import run
from localcluster.bench import baselines, record
from localcluster.faults import scaling_campaign

if TYPE_CHECKING:
    from collections.abc import Mapping

SEED: Final = 1
GPU: Final = "h100-80gb"
GPUS: Final = 24
DEFAULT_START_S: Final = 20.0
SCALE: Final = traces.Scale(sessions_at_once=150.0, duration_s=300.0)
POLICY: Final = {
    "minReplicas": 1,
    "maxReplicas": GPUS,
    "freeSessions": {"min": 2, "percent": 5},
    "scaleDownAfterSeconds": 60,
}


def main() -> int:
    """Run the benchmark and write its record; fail if a session was ended by the operator."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the traces, as PNG")
    options = parser.parse_args()
    campaign = seeds(options.seeds)
    compared = {kind.value: compare(kind) for kind in traces.Kind}
    results = {
        "campaign": campaign,
        "service": POLICY,
        "start_s": DEFAULT_START_S,
        "traces": compared,
        "decide_1000_pods_s": decisions(),
    }
    record.write(options.out, SEED, "none", results)
    print(json.dumps(campaign, indent=2))
    print(table(compared))
    if options.plot:
        plot(options.plot)
    return 1 if campaign["ended_by_operator"] or campaign["violations"] else 0


def seeds(count: int) -> dict[str, Any]:
    """Run many simulated clusters, and sum the results of their sessions."""
    totals: dict[str, Any] = dict.fromkeys(
        ("sessions", "ended_by_operator", "lost_with_pods", "refused", "waited", "plans"), 0
    )
    broken: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for sums, account in pool.map(_seed, range(count), chunksize=10):
            for key, value in sums.items():
                totals[key] += value
            broken += account
    return {"seeds": count, **totals, "violations": broken[:10]}


def _seed(seed: int) -> tuple[dict[str, int], list[str]]:
    result = scaling_campaign.run(seed)
    sums = {
        "sessions": result.sessions,
        "ended_by_operator": result.ended_by_operator,
        "lost_with_pods": result.lost_with_pods,
        "refused": result.refused,
        "waited": result.waited,
        "plans": result.plans,
    }
    return sums, [scaling_campaign.broken(seed, result)] if result.violations else []


def compare(kind: traces.Kind) -> dict[str, dict[str, Any]]:
    """Run one trace under every policy."""
    service, settings = world()
    trace = traces.make(kind, SCALE, random.Random(SEED))
    profiles = scaling_campaign.profiles()
    per_pod = simulate.slots_per_pod(service, profiles, settings)
    buffered = simulate.buffered_optimum(service, trace, per_pod, DEFAULT_START_S)
    policies: Mapping[str, scenario.Scaler | None] = {
        "ours": None,
        "hpa": baselines.HorizontalPodAutoscaler(),
        "knative": baselines.KnativePodAutoscaler(),
    }
    rows = {}
    for name, baseline in policies.items():
        chance = random.Random(SEED)
        result = run(service, profiles, trace, settings, chance, baseline)
        figures = simulate.figures(result, trace, per_pod)
        optimum = figures["gpu_hours_optimum"]
        assert isinstance(optimum, float)
        rows[name] = {
            **figures,
            "gpu_hours_buffered_optimum": round(buffered, 4),
            "ratio_to_optimum": round(result.gpu_hours / optimum, 3),
            "ratio_to_buffered_optimum": round(result.gpu_hours / buffered, 3),
        }
    return rows


def world() -> tuple[Service, scenario.Settings]:
    """Return the service and the cluster of the comparisons."""
    spec = {"placement": {"gpuClasses": [GPU]}, "autoscaling": POLICY}
    metadata = {"name": "avatar", "namespace": "bench", "uid": "s1", "generation": 1}
    service = parse_service({"kind": "AvatarService", "metadata": metadata, "spec": spec})
    return service, scenario.Settings({GPU: GPUS}, start_s=DEFAULT_START_S)


def decisions() -> dict[str, float]:
    """Measure single decisions for a service with 1,000 pods."""
    policy = autoscaling.Autoscaling(1, 2000)
    pods = [
        capacity.Pod(f"p{i}", 5 + i % 2 * 3, i % 6, True, False, 100.0, 0.2, 1.0 + (i % 7 == 0))
        for i in range(1000)
    ]
    offers = [capacity.Offer(f"class-{i}", 5, 3) for i in range(5)]
    history: scaling.History | None = None
    samples = []
    for step in range(500):
        seen = Observation(pods, offers, Demand(3, step * 2, gateways=2))
        begun = time.perf_counter()
        history = scaling.decide(policy, seen, history, 1000 + step * 0.5).history
        samples.append(time.perf_counter() - begun)
    return record.figures(samples[20:])


def table(compared: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the comparison as the table of docs/autoscaling.md."""
    lines = [
        "| trace | policy | sessions | ended by it | found a slot at once | GPU-hours | of optimum"
        " | of optimum + buffer | reaction p99 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, rows in compared.items():
        for name, row in rows.items():
            cells = [
                kind,
                name,
                row["sessions"],
                row["ended_by_operator"],
                f"{row['at_once_ratio'] * 100:.1f} %",
                f"{row['gpu_hours']:.1f}",
                f"{row['ratio_to_optimum']:.2f}",
                f"{row['ratio_to_buffered_optimum']:.2f}",
                f"{row['reaction_p99_s']:.1f} s",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Plot sessions, slots and waiting callers, one row per trace."""
    from matplotlib import pyplot  # a development dependency that is slow to import

    service, settings = world()
    figure, rows = pyplot.subplots(len(traces.Kind), 1, figsize=(10, 14), layout="constrained")
    for axes, kind in zip(rows, traces.Kind, strict=True):
        trace = traces.make(kind, SCALE, random.Random(SEED))
        profiles = scaling_campaign.profiles()
        result = run(service, profiles, trace, settings, random.Random(SEED))
        minutes = [sample.at_s / 60 for sample in result.timeline]
        for name in ("slots", "sessions", "waiting"):
            values = [getattr(sample, name) for sample in result.timeline]
            axes.step(minutes, values, where="post", label=name)
        axes.set(title=kind.value, xlabel="minutes", ylabel="sessions")
        axes.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
