"""Reads a source to its end and prints the memory on the way, as JSON.

A program of its own, so that its peak memory is that of the reading. `first_mib` is the resident
memory after the first 50 frames, `last_mib` after the last one, `peak_mib` the highest;
`open_seconds` and `frame_ms` are CPU time of all threads.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from avatar_runtime.preparation import sources

SETTLED_FRAMES = 50


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def peak_mib() -> float:
    """Return the highest resident memory; `ru_maxrss` would start with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(path: str) -> None:
    began = time.process_time()
    source = sources.open(path)
    opened = time.process_time()
    count, first = 0, 0.0
    for count, _ in enumerate(source.frames(), 1):
        if count == SETTLED_FRAMES:
            first = resident_mib()
    spent = time.process_time() - opened
    figures = {
        "frames": count,
        "first_mib": first,
        "last_mib": resident_mib(),
        "peak_mib": peak_mib(),
        "open_seconds": opened - began,
        "frame_ms": spent / count * 1000,
    }
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
