"""A soak test: sessions speak for 30 minutes on the CPU; memory must not grow, no frame is missing.

The operator's plan for this runtime, made from its calibration, gives the number of sessions. The
resident memory of the runtime is sampled once per second. Its slope is the least-squares line after
the warm-up, which fills the image caches and the memory allocator.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_operator.core.gpus.batch_size import BatchPlan, NoBatch, fixed_batch
from avatar_operator.core.resources.state import parse_state
from localcluster import runtime_process
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOPE_MIB_PER_MIN: Final = 1.0
FPS: Final = 25
GAP_MS: Final = 100
SAMPLE_S: Final = 1.0
_KEPT_SAMPLES: Final = 200


def main() -> int:
    """Run the benchmark and write its record; fail if memory grows or frames are missing."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.soak", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="after the warm-up")
    parser.add_argument("--warm-up-minutes", type=float, default=2.0)
    parser.add_argument("--sessions", type=int, help="without: what the runtime is rated for")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--pace", choices=("burst", "paced"), default="burst")
    options = parser.parse_args()
    with runtime_process.serving(options.out.with_suffix(".log"), options.batch_size) as runtime:
        rating = rated(runtime, options.batch_size)
        sessions = options.sessions or rating.sessions_per_pod
        print(f"{sessions} sessions; rated: {rating.reason}", flush=True)
        minutes = options.warm_up_minutes + options.minutes
        watch = Watch(runtime)
        found = runtime_process.load(
            runtime,
            [
                *("--sessions", str(sessions), "--duration-s", str(60 * minutes)),
                *("--late-ms", str(GAP_MS), *(["--burst"] if options.pace == "burst" else [])),
            ],
        )
        samples = watch.stop()
    settled = [(at, mib) for at, mib in samples if at >= 60 * options.warm_up_minutes]
    slope = 60 * slope_per_s(settled)
    summary = found["summary"]
    results = {
        "sessions": sessions,
        "rated": {"sessions": rating.sessions_per_pod, "reason": rating.reason},
        "pace": options.pace,
        "minutes": options.minutes,
        "rss_slope_mib_per_min": round(slope, 3),
        "rss_mib": {"first": settled[0][1], "last": settled[-1][1], "samples": len(settled)},
        "gaps_over_100_ms": summary["gaps"],
        "load": summary,
        "samples": thinned(samples),
    }
    warm_up = f"{options.warm_up_minutes:g} minutes of the same load"
    record.write(options.out, 0, warm_up, results)
    print(json.dumps({key: results[key] for key in results if key != "samples"}, indent=2))
    faults = summary["gaps"] + summary["frames_missing"] + summary["violations"]
    return 1 if faults or slope >= SLOPE_MIB_PER_MIN else 0


def rated(runtime: runtime_process.Runtime, batch_size: int) -> BatchPlan:
    """Return the operator's plan for a pod with this runtime's calibration."""
    state = runtime.state()
    curve = parse_state(state, 0.0).calibration
    if curve is None:
        raise RuntimeError(f"the runtime has no calibration: {state['calibration']}")
    memory_mib = state["vram"]["total_bytes"] >> 20
    plan = fixed_batch(curve, memory_mib, batch_size, FPS)
    if isinstance(plan, NoBatch):
        raise RuntimeError(f"the runtime cannot be rated: {plan.reason}")
    return plan


class Watch:
    """Samples the memory of a runtime in its own thread until stopped."""

    def __init__(self, runtime: runtime_process.Runtime) -> None:
        self._runtime = runtime
        self._samples: list[tuple[float, float]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> list[tuple[float, float]]:
        """Stop, and return pairs of seconds since the start and MiB, oldest first."""
        self._ends.set()
        self._thread.join()
        return self._samples

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ends.wait(SAMPLE_S):
            taken = round(time.monotonic() - began, 1), round(self._runtime.rss_mib(), 2)
            self._samples.append(taken)


def slope_per_s(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line; 0 if all samples have the same time."""
    count = len(samples)
    mean_at = sum(at for at, _ in samples) / max(1, count)
    mean = sum(value for _, value in samples) / max(1, count)
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    if not spread:
        return 0.0
    return sum((at - mean_at) * (value - mean) for at, value in samples) / spread


def thinned(samples: Sequence[tuple[float, float]]) -> list[list[Any]]:
    """Return a few hundred samples over the whole time, for a plot."""
    step = max(1, len(samples) // _KEPT_SAMPLES)
    return [list(sample) for sample in samples[::step]]


if __name__ == "__main__":
    sys.exit(main())
