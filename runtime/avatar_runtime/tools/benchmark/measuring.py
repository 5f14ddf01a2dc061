"""Measures an engine with seeded weights: each bucket, whole sessions, and the host work.

Sessions run in this process with everything but their sockets: protocol, scheduler, governor,
audio, model, composition, JPEG and messages. Absolute speed depends on the machine, so the frames
per second of the sessions are compared with those of the networks alone, which are timed before
and after each turn of the sessions.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.percentiles import percentile
from avatar_runtime.batching import buckets
from avatar_runtime.engine.engine import Engine
from avatar_runtime.tools.benchmark import scheduling, sessions, stages
from avatar_runtime.tools.benchmark.plan import FPS, SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.engine.device import Device
    from avatar_runtime.tools.benchmark.plan import Plan

_TURNS: Final = 5  # of sessions, with the model alone before, between and after them


def run(device: Device, plan: Plan) -> dict[str, Any]:
    """Measure and return the document of `bench --json`."""
    from avatar_runtime.engine.networks import musetalk
    from avatar_runtime.tools import random_model

    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as name:
        folder = Path(name)
        random_model.write(folder / "model", random_model.preset(plan.preset, plan.decoder), SEED)
        random_model.write_avatar(folder / "avatars" / "anna", musetalk.load(folder / "model"))
        engine = Engine(device, folder / "model", folder / "avatars", plan.batch_size)
        return asyncio.run(_measure(engine, plan))


@dataclass(frozen=True, slots=True)
class _Results:
    """The measurements of one engine."""

    load_s: float
    rows: list[dict[str, Any]]
    """A row of the document for each bucket."""
    saturated: sessions.SaturatedRun
    alone: list[stages.ModelSpeed]
    rated: int
    opened: list[sessions.BenchmarkSession]
    """The sessions at the rated load."""
    lags: list[float]
    gflop: float | None
    peak: float | None
    autograd: list[dict[str, Any]] | None


async def _measure(engine: Engine, plan: Plan) -> dict[str, Any]:
    try:
        results = await _run(engine, plan)
    finally:
        await engine.stop()
    return _document(engine, plan, results)


async def _run(engine: Engine, plan: Plan) -> _Results:
    began = time.perf_counter()
    await engine.start()
    load_s = time.perf_counter() - began
    loop = asyncio.get_running_loop()
    # On another thread than the engine's, which is idle meanwhile.
    rows = await loop.run_in_executor(None, stages.bucket_rows, engine, plan.batch_size)
    saturated = sessions.SaturatedRun()
    alone = [await loop.run_in_executor(None, stages.model_only, engine, plan, 0)]
    for turn in range(_TURNS):
        await sessions.saturate(engine, plan, saturated)
        alone.append(await loop.run_in_executor(None, stages.model_only, engine, plan, turn + 1))
    rated = max(1, int(0.9 * saturated.fps / FPS))
    opened, lags = await sessions.at_rated_load(engine, plan, rated)
    gflop, peak = stages.work(engine.device)
    sizes = [b for b in buckets.BUCKETS if b <= plan.batch_size] if plan.autograd else []
    autograd = stages.autograd_rows(engine.device, sizes) if plan.autograd else None
    return _Results(load_s, rows, saturated, alone, rated, opened, lags, gflop, peak, autograd)


def _document(engine: Engine, plan: Plan, results: _Results) -> dict[str, Any]:
    saturated, alone, opened = results.saturated, results.alone, results.opened
    models, networks = [each.model for each in alone], [each.networks for each in alone]
    model_only = statistics.median(models)
    first = [ms for each in opened for ms in each.first_ms]
    frames = [ms for each in opened for ms in each.frame_ms]
    return {
        "device": engine.device.name,
        "preset": plan.preset,
        "model": engine.model.variant,
        "versions": {n: metadata.version(n) for n in ("torch", "numpy", "opencv-python-headless")},
        "buckets": results.rows,
        "model_only_fps": round(model_only, 2),
        "networks_fps": round(statistics.median(networks), 2),
        "recipe_fps": round(saturated.fps, 2),
        "recipe_ratio": {
            "of_model": _share(models, saturated.recipe),
            "of_networks": _share(networks, saturated.recipe),
        },
        "sessions": plan.sessions,
        "batch_fill_ratio": round(saturated.frames / saturated.paid, 4),
        "first_frame_ms": {"p50": _percentile(first, 50), "p95": _percentile(first, 95)},
        "frame_ms": {f"p{p}": _percentile(frames, p) for p in (50, 95, 99)},
        "loop_lag_ms_p999": _percentile(results.lags, 99.9),
        "mfu": mfu(results.gflop, model_only, results.peak),
        "gflop_per_frame": results.gflop,
        "peak_tflops": results.peak,
        "autograd": results.autograd,
        "rated_sessions": results.rated,
        "load_s": round(results.load_s, 2),
        "scheduler_decisions_per_s": scheduling.decisions_per_s(),
        "seed": SEED,
        "turns": {
            "model_only_fps": [round(fps, 2) for fps in models],
            "networks_fps": [round(fps, 2) for fps in networks],
            "recipe_fps": [round(fps, 2) for fps in saturated.recipe],
        },
    }


def mfu(gflop: float | None, frames_per_s: float, peak_tflops: float | None) -> float | None:
    """Return the model FLOP utilisation: the used share of the nominal peak of the GPU, 0 to 1."""
    if gflop is None or peak_tflops is None:
        return None
    return round(gflop * frames_per_s / 1000 / peak_tflops, 4)


def _share(alone: Sequence[float], recipe: Sequence[float]) -> float:
    """Return the median ratio of a turn of sessions to the turns of the model beside it."""
    around = zip(itertools.pairwise(alone), recipe, strict=True)
    return round(statistics.median(2 * fps / sum(beside) for beside, fps in around), 4)


def _percentile(values: Sequence[float], percent: float) -> float | None:
    found = percentile(values, percent)
    return None if found is None else round(found, 2)
