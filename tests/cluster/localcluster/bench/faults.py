"""The API fault benchmark: the time until each seed converges, compared with clean runs."""

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
    """Run a campaign on a new control plane."""
    async with running(state) as cluster:
        return await campaign.run(cluster, range(first, first + seeds))


def main() -> int:
    """Run the campaign and write its record; fail if a seed differs from a clean run."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.faults", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        report = asyncio.run(run(options.first, options.seeds, Path(folder) / "cluster"))
    faulted = [o.seconds for o in report.outcomes if o.seed is not None]
    clean = [o.seconds for o in report.outcomes if o.seed is None]
    converged, baseline = record.figures(faulted), record.figures(clean)
    results = {
        "seeds": options.seeds,
        "problems": report.problems,
        "sessions_cut": report.sessions_cut,
        "seed_s": converged,
        "clean_s": baseline,
        "ratio_to_baseline": round(converged["median"] / baseline["median"], 2),
        "faults": dict(sorted(report.injected.items())),
        "requests": report.requests,
        "operator_restarts": len(report.log_tails),
        "operator_last_words": report.log_tails,
        "real": "API server, scheduler, garbage collector, operator with its own account",
        "simulated": "nodes and runtime pods, whose admin ports are real",
    }
    record.write(options.out, options.first, "one clean run of each scenario", results)
    print(report.summary())
    for problem in report.problems:
        print(problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
