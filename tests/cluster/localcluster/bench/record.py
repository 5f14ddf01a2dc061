"""The JSON record of a benchmark, and the statistics of its samples."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.percentiles import percentile
from localcluster import paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGES: Final = (
    "kopf",
    "kubernetes",
    "aiohttp",
    "numpy",
    "opencv-python-headless",
    "av",
    "torch",
)


def figures(samples: Sequence[float]) -> dict[str, float]:
    """Return the number of samples, their median, p95, p99 and maximum."""
    if not samples:
        return {"samples": 0}
    ordered = sorted(samples)

    def at(percent: float) -> float:
        return round(percentile(ordered, percent) or 0.0, 6)

    return {
        "samples": len(ordered),
        "median": at(50),
        "p95": at(95),
        "p99": at(99),
        "max": round(ordered[-1], 6),
    }


def write(path: Path, seed: int, warm_up: str, results: Mapping[str, Any]) -> None:
    """Write the record of one benchmark."""
    document = {
        "benchmark": path.stem,
        "command": " ".join([Path(sys.executable).name, "-m", *_module(), *sys.argv[1:]]),
        "commit": _commit(),
        "device": _device(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in PACKAGES},
        },
        "seed": seed,
        "warm_up": warm_up,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        **results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _module() -> tuple[str]:
    # The name by which Python was told to run the module, with its package.
    spec = sys.modules["__main__"].__spec__
    return (spec.name if spec is not None else Path(sys.argv[0]).stem,)


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=paths.REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    dirty = git(
        "status", "--porcelain", "--untracked-files=no", "operator", "runtime", "tests/cluster"
    )
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if dirty else "")


def _device() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"
