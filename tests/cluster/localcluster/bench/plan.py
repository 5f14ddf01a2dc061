"""The duration of a decision: `plan_batch` alone, and whole plans by size of the cluster."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import packaged_files
from avatar_operator.core.gpus import batch_size, inventory
from avatar_operator.core.planning import planner
from avatar_operator.core.resources.gpu_profile import GPUProfile, parse_profile
from avatar_operator.core.resources.node import parse_node
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import Objective, parse_service
from localcluster.bench import record
from localcluster.fakes import kwok

if TYPE_CHECKING:
    from collections.abc import Callable

SEED: Final = 1
WARM_UP: Final = 20
GPUS_USED: Final = 4  # of the eight GPUs of a node
OPTIONS: Final = planner.Options("avatar-musetalk/runtime")


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.plan", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "plan_batch_s": timed(batches(), options.seconds),
        "plan_s": {
            f"{nodes} nodes": timed(plans(nodes), options.seconds) for nodes in (1, 16, 128, 1280)
        },
    }
    median = results["plan_s"]["1 nodes"]["median"]
    results["ratio_to_baseline"] = {
        name: round(found["median"] / median, 1) for name, found in results["plan_s"].items()
    }
    record.write(options.out, SEED, f"{WARM_UP} calls", results)
    print(json.dumps(results, indent=2))
    return 0


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Measure single calls for a while."""
    for _ in range(WARM_UP):
        call()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        call()
        samples.append(time.perf_counter() - started)
    figures = record.figures(samples)
    return {**figures, "per_s": round(1 / figures["median"])}


def batches() -> Callable[[], object]:
    """Return a call that plans the batch for a random class, memory, objective and frame rate."""
    chance = random.Random(SEED)
    curves = [curve for profile in profiles() for curve in profile.curves]

    def call() -> object:
        memory = chance.randrange(8_000, 180_000)
        objective = chance.choice(list(Objective))
        return batch_size.plan_batch(chance.choice(curves), memory, objective, 25)

    return call


def plans(nodes: int) -> Callable[[], object]:
    """Return a call that plans a service that needs one more pod, in a cluster of the given size.

    The census of nodes is kept from call to call, as the operator does; on another node than
    before a pod came or went since the last call.
    """
    bodies = [kwok.node(number) for number in range(nodes)]
    for body in bodies:
        body["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    spec = {"replicas": 1, "placement": {"gpuClasses": ["rtx-4090"]}}
    metadata = {"name": "s", "namespace": "n", "uid": "u", "generation": 1}
    service = parse_service({"metadata": metadata, "spec": spec})
    observed = planner.Observed(
        nodes=tuple(map(parse_node, bodies)),
        uses=tuple(PodUse(body["metadata"]["name"], GPUS_USED, "rtx-4090") for body in bodies),
        profiles=profiles(),
        pods=(),
        states={},
        has_control_secret=True,
        node_classes=inventory.NodeClassCache(),
    )

    uses, turn = list(observed.uses), itertools.count()

    def call() -> object:
        number = next(turn) % nodes
        gpus = GPUS_USED - 1 if uses[number].gpus == GPUS_USED else GPUS_USED
        uses[number] = uses[number]._replace(gpus=gpus)
        plan = planner.plan(service, replace(observed, uses=tuple(uses)), OPTIONS, 0.0)
        if not plan.actions:
            raise RuntimeError("the plan makes no pod: not what is to be measured")
        return plan

    return call


def profiles() -> tuple[GPUProfile, ...]:
    """Return the profiles that the chart ships."""
    return tuple(map(parse_profile, profile_bodies()))


def profile_bodies() -> list[dict[str, Any]]:
    """Return the profiles that the chart ships, as API objects."""
    specs = packaged_files.gpu_profiles()
    return [{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()]


if __name__ == "__main__":
    sys.exit(main())
