"""Random services, callers and faults: each seed is one run of the simulator.

The seed determines the whole run, so that a run that violates a rule can be repeated.
"""

from __future__ import annotations

import random
import sys
from functools import cache
from math import log
from typing import Any

from avatar_contracts import packaged_files
from avatar_operator.core.resources.gpu_profile import GPUProfile, parse_profile
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.simulator import scenario, traces
from avatar_operator.simulator import world as simulation

GPUS = ("h100-80gb", "a100-80gb", "rtx-4090")
MINUTES = 12


@cache
def profiles() -> tuple[GPUProfile, ...]:
    """Return the profiles that the chart ships."""
    specs = packaged_files.gpu_profiles()
    bodies = [{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()]
    return tuple(map(parse_profile, bodies))


def service(chance: random.Random) -> Service:
    """Return a service with random limits, headroom and stabilization times."""
    low = chance.choice([0, 0, 1, 2])
    autoscaling: dict[str, Any] = {
        "minReplicas": low,
        "maxReplicas": low + chance.randint(1, 12),
        "freeSessions": {"min": chance.randint(0, 4), "percent": chance.choice([0, 10, 50])},
        "scaleDownAfterSeconds": chance.choice([0, 10, 30, 120]),
    }
    if not low and chance.random() < 0.7:
        autoscaling["scaleToZeroAfterSeconds"] = chance.choice([5, 30, 60])
    if "scaleToZeroAfterSeconds" not in autoscaling:
        autoscaling["reserve"] = chance.choice([0, 0, 1, 2])
    if chance.random() < 0.3:
        autoscaling["maxCostPerHour"] = chance.choice(["4", "9.99", "20"])
    if chance.random() < 0.3:
        autoscaling["rate"] = {"upPods": chance.randint(1, 4), "downPods": chance.randint(1, 4)}
    if chance.random() < 0.3:
        # Virtual time starts at 22:13:20.
        free = {"min": chance.randint(1, 20)}
        when = {"start": "16,20 22 * * *", "end": "18,22 22 * * *"}
        autoscaling["schedules"] = [{"name": "rush", **when, "freeSessions": free}]
    spec = {
        "placement": {"gpuClasses": chance.sample(GPUS, chance.randint(1, 2))},
        "objective": chance.choice(["latency", "balanced", "throughput"]),
        "autoscaling": autoscaling,
    }
    metadata = {"name": "avatar", "namespace": "sim", "uid": "s1", "generation": 1}
    return parse_service({"kind": "AvatarService", "metadata": metadata, "spec": spec})


def callers(chance: random.Random) -> tuple[traces.Session, ...]:
    """Return callers whose rate changes every minute."""
    mean_s = chance.choice([15.0, 60.0, 200.0])
    busy = chance.uniform(0.05, 0.3)
    sessions = [traces.Session(0.0, mean_s)]
    for minute in range(MINUTES):
        rate = busy * chance.choice([0.0, 0.2, 1.0, 1.0, 3.0])
        now = 60.0 * minute
        while rate and (now := now - log(1 - chance.random()) / rate) < 60.0 * (minute + 1):
            stay_s = max(1.0, -log(1 - chance.random()) * mean_s)
            sessions.append(traces.Session(now, stay_s))
    return tuple(sessions)


def settings(chance: random.Random, wanted: Service) -> scenario.Settings:
    """Return a small cluster with many faults."""
    faults = scenario.Faults(
        crashes_per_hour=chance.choice([0.0, 0.0, 1.0]),
        silences_per_hour=chance.choice([0.0, 3.0, 20.0]),
        gateway_silences_per_hour=chance.choice([0.0, 10.0]),
        silence_s=chance.choice([3.0, 20.0, 120.0]),
        restarts_per_hour=chance.choice([0.0, 10.0, 40.0]),
        restart_s=chance.choice([1.0, 15.0]),
        api_fault_ratio=chance.choice([0.0, 0.05, 0.3]),
        leader_changes_per_hour=chance.choice([0.0, 0.0, 30.0]),
        clock_steps_per_hour=chance.choice([0.0, 0.0, 20.0]),
    )
    return scenario.Settings(
        gpus={name: chance.randint(1, 8) for name in wanted.placement.gpu_classes},
        start_s=chance.choice([2.0, 10.0, 40.0]),
        start_spread=chance.choice([0.1, 0.5]),
        patience_s=chance.choice([0.5, 30.0]),
        faults=faults,
    )


def run(seed: int) -> scenario.Result:
    """Run the simulated cluster of one seed and return its result."""
    chance = random.Random(seed)
    wanted = service(chance)
    world = settings(chance, wanted)
    return simulation.run(wanted, profiles(), callers(chance), world, chance)


def broken(seed: int, result: scenario.Result) -> str:
    """Describe a run that violated a rule: the last plans before the first violation."""
    lines = [f"seed {seed}: {result.violations[0]}"]
    at_s = float(result.violations[0].split(" s:")[0])
    lines += [str(sample) for sample in result.timeline if sample.at_s <= at_s][-8:]
    return "\n".join(lines)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        again = run(int(argument))
        print(broken(int(argument), again) if again.violations else f"seed {argument}: {again}")
