"""Sessions at 25 frames per second on the CPU, measured at the clients over the whole path.

One runtime process serves the shipped model and avatars; the clients run in another process. Each
row is a number of sessions that speak all the time. Their audio arrives as from a microphone
(`paced`), or all at once (`burst`, the usual case with a voice model).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import runtime_process
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Mapping

FPS: Final = 25
GAP_MS: Final = 100
STAGES: Final = ("queue", "encode_audio", "unet", "vae", "compose", "jpeg", "engine")
_LATENCY: Final = "avatar_runtime_frame_latency_seconds"
_LAG: Final = "avatar_runtime_event_loop_lag_seconds"


def main() -> int:
    """Run the benchmark and write its record; fail if a frame is missing."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.realtime", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=15.0, help="that each session lasts")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    rows = []
    log = options.out.with_suffix(".log")
    with runtime_process.serving(log, options.batch_size) as runtime:
        # The first utterance reads the avatar's images and fills the memory allocator.
        runtime_process.load(runtime, ["--sessions", "1", "--duration-s", "3"])
        for sessions in options.sessions:
            for pace in ("paced", "burst"):
                rows.append(measure(runtime, sessions, options.seconds, pace))
                print(shown(rows[-1]), flush=True)
    results = {"batch_size": options.batch_size, "gap_ms": GAP_MS, "rows": rows}
    record.write(options.out, 0, "one session for 3 s", results)
    print(json.dumps(rows, indent=2))
    return 1 if any(row["missing"] or row["violations"] for row in rows) else 0


def measure(
    runtime: runtime_process.Runtime, sessions: int, seconds: float, pace: str
) -> dict[str, Any]:
    """Run the given number of speaking sessions and return the row."""
    before, cpu_before = runtime.metrics(), runtime.cpu_s()
    extra = ["--burst"] if pace == "burst" else []
    found = runtime_process.load(
        runtime,
        [
            *("--sessions", str(sessions), "--duration-s", str(seconds)),
            # The callers do not start at the same moment.
            *("--arrivals-per-s", str(FPS / 2), "--late-ms", str(GAP_MS), *extra),
        ],
    )
    cpu_s = runtime.cpu_s() - cpu_before
    after = runtime.metrics()
    summary = found["summary"]
    frames = max(1, summary["frames"])
    return {
        "sessions": sessions,
        "pace": pace,
        "seconds": seconds,
        "wall_s": summary["wall_s"],
        "frames_due": summary["frames_due"],
        "frames": summary["frames"],
        "dropped": summary["frames_dropped"],
        "missing": summary["frames_missing"],
        "late": summary["frames_late"],
        "gaps_over_100_ms": summary["gaps"],
        "gap_ms_max": summary["gap_ms_max"],
        "first_frame_ms": summary["first_frame_ms"],
        "violations": summary["violations"],
        "cpu_ms_per_frame": round(1000 * cpu_s / frames, 2),
        "cores_used": round(cpu_s / summary["wall_s"], 2),
        "stage_ms": stages(before, after),
        "loop_lag_over_10_ms_ratio": lag_ratio(before, after, "0.01"),
        "loop_lag_over_40_ms_ratio": lag_ratio(before, after, "0.04"),
    }


def stages(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the mean milliseconds of each stage: per frame for `queue`, otherwise per batch."""
    return {
        stage: round(
            1000
            * _grown(before, after, f'{_LATENCY}_sum{{stage="{stage}"}}')
            / max(1.0, _grown(before, after, f'{_LATENCY}_count{{stage="{stage}"}}')),
            2,
        )
        for stage in STAGES
    }


def lag_ratio(before: Mapping[str, float], after: Mapping[str, float], bucket_s: str) -> float:
    """Return the share of event loop timers that were later than a histogram bucket."""
    timers = max(1.0, _grown(before, after, f"{_LAG}_count"))
    return round(1 - _grown(before, after, f'{_LAG}_bucket{{le="{bucket_s}"}}') / timers, 4)


def shown(row: Mapping[str, Any]) -> str:
    """Return a row as readable text."""
    first = row["first_frame_ms"]
    return (
        f"   {row['sessions']} sessions, {row['pace']}: {row['frames']}/{row['frames_due']} frames "
        f"in {row['wall_s']} s, {row['gaps_over_100_ms']} gaps over {GAP_MS} ms "
        f"(longest {row['gap_ms_max']}), first frame p50 {first['p50']} p95 {first['p95']} ms, "
        f"{row['cpu_ms_per_frame']} ms of CPU a frame"
    )


def _grown(before: Mapping[str, float], after: Mapping[str, float], series: str) -> float:
    return after.get(series, 0.0) - before.get(series, 0.0)


if __name__ == "__main__":
    sys.exit(main())
