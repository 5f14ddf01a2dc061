"""The failover benchmark: leaders that are killed while they work, compared with clean stops."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from localcluster.bench import record
from localcluster.controlplane.cluster import running
from localcluster.faults import leader_kills

FAILOVER_S: Final = 5.0
CLEAN_S: Final = 1.0


async def run(kills: int, stops: int, seed: int, state: Path) -> leader_kills.Report:
    """Kill leaders on a new control plane."""
    async with running(state) as cluster:
        return await leader_kills.run(cluster, kills, stops, seed)


def main() -> int:
    """Run the benchmark and write its record.

    It fails on a surplus or orphaned pod, on a cut session, and on a late takeover.
    """
    parser = argparse.ArgumentParser(prog="localcluster.bench.failover", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=10, help="clean stops, before the kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder:
        state = Path(folder) / "cluster"
        report = asyncio.run(run(options.kills, options.stops, options.seed, state))
    late = [s for s in report.elected_s if s > FAILOVER_S]
    late += [s for s in report.handed_s if s > CLEAN_S]
    results = {
        **report.figures(),
        "later_than_the_targets": len(late),
        "targets_s": {"killed": FAILOVER_S, "stopped": CLEAN_S},
        "real": "API server, scheduler, two operators with their own account",
        "simulated": "nodes and runtime pods, whose admin ports are real",
    }
    record.write(options.out, options.seed, "none: the first kill counts", results)
    print(report.figures())
    return 1 if late or report.surplus or report.orphans or report.cut else 0


if __name__ == "__main__":
    sys.exit(main())
