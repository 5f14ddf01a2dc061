"""The API fault campaign as a benchmark: how long seeds take to converge, beside clean runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from localcluster.bench import record
from localcluster.controlplane.cluster import running
from localcluster.faults import campaign


async def run(first: int, seeds: int, state: Path) -> campaign.Report:
    """Run a campaign on a control plane of its own."""
    async with running(state) as cluster:
        return await campaign.run(cluster, range(first, first + seeds))


def main() -> int:
    """Run the campaign and write its record; fail if a seed ended otherwise than a clean run."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.faults", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        report = asyncio.run(run(asked.first, asked.seeds, Path(folder) / "cluster"))
    faulted = [o.seconds for o in report.outcomes if o.seed is not None]
    clean = [o.seconds for o in report.outcomes if o.seed is None]
    converged, baseline = record.figures(faulted), record.figures(clean)
    results = {
        "seeds": asked.seeds,
        "problems": report.problems,
        "sessions_cut": report.sessions_cut,
        "seed_s": converged,
        "clean_s": baseline,
        "ratio_to_baseline": round(converged["median"] / baseline["median"], 2),
        "faults": dict(sorted(report.injected.items())),
        "requests": report.requests,
        "operator_restarts": len(report.last_words),
        "operator_last_words": report.last_words,
        "real": "API server, scheduler, garbage collector, operator with its own account",
        "simulated": "nodes and runtime pods, whose admin ports are real",
    }
    record.write(asked.out, asked.first, "one clean run of each scenario", results)
    print(report.summary())
    for problem in report.problems:
        print(problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
