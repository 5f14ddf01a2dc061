"""The campaign of a shared cluster: 20 services of three tenants want 12 GPUs of three classes."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from localcluster.bench import record
from localcluster.controlplane.cluster import running
from localcluster.faults import shared_campaign, shared_cluster


async def run(first: int, seeds: int, limit_s: float, state: Path) -> shared_cluster.Report:
    """Run a campaign on a control plane of its own."""
    chosen = range(first, first + seeds)
    async with running(state) as cluster:
        return await shared_cluster.run(cluster, chosen, show=True, limit_s=limit_s)


def results(report: shared_cluster.Report) -> dict[str, Any]:
    """Return the record of a campaign."""
    failing = report.failing_seeds()
    converged = [o.converged_s for o in report.outcomes if o.converged_s is not None]
    return {
        "seeds": len(report.outcomes),
        "services": shared_campaign.SERVICES,
        "tenants": len(shared_campaign.TENANTS),
        "gpus": {each.name: each.nodes * each.gpus_per_node for each in shared_campaign.CLASSES},
        "checks": {
            check: {"failing_seeds": seeds, "ok": not seeds} for check, seeds in failing.items()
        },
        "problems": report.problems,
        "converged_s": record.figures(converged),
        "seed_s": record.figures([outcome.seconds for outcome in report.outcomes]),
        "clock": "limits and converged_s leave out time in which a process waited for a processor",
        "left_out_s": record.figures([outcome.waited_s for outcome in report.outcomes]),
        "sessions": sum(outcome.sessions for outcome in report.outcomes),
        "sessions_cut": report.sessions_cut,
        "starved_services": sum(outcome.starved for outcome in report.outcomes),
        "operator_restarts": len(report.log_tails),
        "leadership_losses": report.leadership_losses,
        "operator_last_words": report.log_tails,
        "real": "API server, scheduler, garbage collector, operator with its own account",
        "simulated": "nodes and runtime pods, whose admin ports are real",
    }


def main() -> int:
    """Run the campaign and write its record; fail if a check fails for a seed."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.shared", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="no seed starts after this time"
    )
    asked = parser.parse_args()
    limit_s = 60 * asked.minutes
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        report = asyncio.run(run(asked.first, asked.seeds, limit_s, Path(folder) / "cluster"))
    record.write(asked.out, asked.first, "none: every seed starts with free GPUs", results(report))
    print(report.summary())
    return 1 if report.problems or report.log_tails else 0


if __name__ == "__main__":
    sys.exit(main())
