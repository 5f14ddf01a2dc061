"""What a session takes of the runtime's CPU and of the connection: media as JSON and as binary.

Both transports alternate within one run on a simulated device; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import runtime_process
from localcluster.bench import record
from localcluster.bench.slow_sockets import DEVICE

if TYPE_CHECKING:
    from localcluster.runtime_process import Runtime

VIDEOS: Final = ("jpeg", "h264", "none")
TRANSPORTS: Final = ("json", "binary")


def main() -> int:
    """Measure and write the record; fail if a session is not right."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.transport", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    profile = {"AVATAR_GPU_PROFILE": json.dumps(DEVICE)}
    log = options.out.with_suffix(".log")
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    with runtime_process.serving(log, 32, profile, device="simulated:fast") as runtime:
        for _ in range(options.rounds):
            for video in VIDEOS:
                for transport in TRANSPORTS:
                    found = measure(runtime, video, transport, options)
                    taken.setdefault((video, transport), []).append(found)
    rows = [
        {
            "video": video,
            "transport": transport,
            **{name: statistics.median(one[name] for one in found) for name in found[0]},
        }
        for (video, transport), found in taken.items()
    ]
    print(json.dumps(rows, indent=2))
    about = {name: getattr(options, name) for name in ("sessions", "seconds", "rounds")}
    record.write(options.out, 0, "none", {**about, "simulated": DEVICE, "rows": rows})
    return 1 if any(row["faults"] for row in rows) else 0


def measure(
    runtime: Runtime, video: str, transport: str, options: argparse.Namespace
) -> dict[str, float]:
    """Return the figures of some sessions that speak at the same time."""
    before = runtime.cpu_s()
    report: dict[str, Any] = runtime_process.load(
        runtime,
        [
            *("--sessions", str(options.sessions), "--duration-s", str(options.seconds), "--burst"),
            *("--video", video, "--transport", transport),
        ],
    )
    cpu_s, sessions = runtime.cpu_s() - before, report["sessions"]
    spoken_s = sum(each["audio_ms"] for each in sessions) / 1000
    received = sum(each["received_bytes"] for each in sessions)
    return {
        "runtime_cpu_ms_per_s": round(cpu_s * 1000 / spoken_s, 2),
        "kbit_per_s": round(received * 8 / 1000 / spoken_s, 1),
        "faults": sum(len(each["violations"]) + (each["ended"] != "done") for each in sessions),
    }


if __name__ == "__main__":
    raise SystemExit(main())
