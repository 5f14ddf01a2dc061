"""Several tenants share a cluster with too few GPUs: some seeds of the campaign of `make bench`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from localcluster.controlplane.cluster import running
from localcluster.faults import shared_cluster

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e]

SEEDS = range(int(os.environ.get("AVATAR_SHARED_SEEDS", "3")))


async def test_services_of_several_tenants_do_no_harm_to_each_other(tmp_path: Path) -> None:
    async with running(tmp_path / "cluster") as cluster:
        report = await shared_cluster.run(cluster, SEEDS)
    print(report.summary())  # noqa: T201 - pytest shows it when the test fails
    assert report.problems == []
    assert report.sessions_cut == 0
    assert sum(outcome.sessions for outcome in report.outcomes) > 0
    assert report.log_tails == []  # the operator never ended by itself
