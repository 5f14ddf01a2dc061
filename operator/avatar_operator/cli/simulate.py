"""`avatar-operator simulate`: runs a trace through the operator's planner in virtual time."""

from __future__ import annotations

import dataclasses
import json
import random
from math import ceil
from typing import TYPE_CHECKING

from avatar_operator.cli import plan
from avatar_operator.core.autoscaling import arrivals, decision_log, inputs
from avatar_operator.core.resources import autoscaling
from avatar_operator.errors import InputError
from avatar_operator.simulator import plot, scenario, traces
from avatar_operator.simulator.world import SimulatedCluster, optimum_gpu_hours, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.service import Service


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one simulation."""

    trace: Path
    service: Path
    profiles: Path | None
    """None: the profiles of the chart."""
    seed: int
    gpus: int | None
    """GPUs of each class; None: maxReplicas."""
    start_s: float
    decisions: bool = False
    """Whether to log each decision."""


@dataclasses.dataclass(frozen=True, slots=True)
class Simulated:
    """The output of one simulation."""

    figures: Mapping[str, object]
    picture: str  # SVG
    decisions: tuple[str, ...]  # lines of JSON


def simulate(request: Request) -> Simulated:
    """Run one simulation; scripts of users rely on the shape of its figures.

    Raises:
        InputError: a file cannot be read or lacks the expected content.
        InvalidResource: a resource is invalid.
    """
    service = plan.read_service(request.service)
    if service.autoscaling is None or service.replicas is not None:
        fault = "has a fixed number of pods, must have spec.autoscaling"
        raise InputError("--service", str(request.service), fault)
    profiles = plan.read_profiles(request.profiles)
    trace = read_trace(request.trace)
    gpus = request.gpus if request.gpus is not None else service.autoscaling.max_replicas
    settings = scenario.Settings(stock(service, profiles, gpus), start_s=request.start_s)
    lines: list[str] = []
    written = decision_log.DecisionLog()

    def note(answer: inputs.ScalingResult) -> None:
        lines.append(json.dumps(written.line(str(service.key), answer), separators=(",", ":")))

    chance = random.Random(request.seed)
    on_decision = note if request.decisions else None
    result = run(service, profiles, trace, settings, chance, on_decision=on_decision)
    per_pod = slots_per_pod(service, profiles, settings)
    data = {
        **figures(result, trace, per_pod),
        "settings": {
            "service": str(service.key),
            "autoscaling": autoscaling.document(service.autoscaling),
            "gpus": dict(settings.gpus),
            "sessions_per_pod": per_pod,
            "start_s": settings.start_s,
            "patience_s": settings.patience_s,
            "seed": request.seed,
        },
    }
    title = f"{service.key}: {result.sessions} sessions, {result.gpu_hours:.1f} GPU-hours"
    return Simulated(data, plot.timeline(title, result.timeline), tuple(lines))


def read_trace(path: Path) -> tuple[traces.Session, ...]:
    """Return the sessions of a CSV file.

    Raises:
        InputError: the file cannot be read or contains an invalid line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--trace", str(path), str(error)) from error
    return traces.parse(str(path), text.splitlines())


def generate(kind: traces.Kind, scale: traces.Scale, seed: int, out: Path) -> int:
    """Write a generated trace, and return its number of sessions."""
    sessions = traces.make(kind, scale, random.Random(seed))
    out.write_text("\n".join(traces.lines(sessions)) + "\n", encoding="utf-8")
    return len(sessions)


def stock(service: Service, profiles: tuple[GPUProfile, ...], gpus: int) -> Mapping[str, int]:
    """Return the GPUs of a simulated cluster: `gpus` of each class that the service allows."""
    allowed = service.placement.gpu_classes or tuple(profile.name for profile in profiles)
    return {profile.name: gpus for profile in profiles if profile.name in allowed}


def slots_per_pod(
    service: Service,
    profiles: tuple[GPUProfile, ...],
    settings: scenario.Settings,
) -> int:
    """Return the slots of a pod on the class that is filled first."""
    nothing = (traces.Session(0.0, 1.0),)
    world = SimulatedCluster(service, profiles, nothing, settings, random.Random(0))
    return world.best().sessions_per_pod


def figures(
    result: scenario.Result, trace: tuple[traces.Session, ...], per_pod: int
) -> dict[str, object]:
    """Return the figures of a result, with the optimum."""
    return {
        "sessions": result.sessions,
        "ended_by_operator": result.ended_by_operator,
        "waited": result.waited,
        "wait_p99_s": round(result.wait_p99_s, 3),
        "gpu_hours": round(result.gpu_hours, 4),
        "gpu_hours_optimum": round(optimum_gpu_hours(trace, per_pod), 4),
        "cost": round(result.cost, 2),
        "reversals": result.reversals,
        "reaction_p99_s": round(result.reaction_p99_s, 3),
        "max_pods": result.max_pods,
        "refused": result.refused,
        "lost_with_pods": result.lost_with_pods,
        "at_once_ratio": round(result.at_once_ratio, 5),
        "violations": list(result.violations),
    }


def buffered_optimum(
    service: Service, trace: tuple[traces.Session, ...], per_pod: int, start_s: float
) -> float:
    """Return the GPU-hours of an optimum that keeps the headroom of the policy.

    The arrival rate is known: it follows from the sessions and their mean duration (Little's law).
    """
    policy = service.autoscaling
    assert policy is not None
    mean_s = sum(session.duration_s for session in trace) / len(trace)

    def headroom(live: int) -> int:
        likely = arrivals.headroom(live / mean_s * start_s)
        return max(policy.free_min, ceil(live * policy.free_percent / 100), likely)

    return optimum_gpu_hours(trace, per_pod, headroom)


def text(data: Mapping[str, object]) -> str:
    """Return the figures as readable text."""
    rows = [(key, value) for key, value in data.items() if key != "settings"]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key.ljust(width)}  {json.dumps(value)}" for key, value in rows)
