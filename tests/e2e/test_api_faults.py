"""The operator behind a proxy that makes the API server's answers go wrong, seed by seed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from localcluster.controlplane.cluster import running
from localcluster.faults import campaign

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e]

SEEDS = range(int(os.environ.get("AVATAR_FAULT_SEEDS", "20")))


async def test_api_faults_end_no_session_and_change_nothing_in_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "cluster") as cluster:
        report = await campaign.run(cluster, SEEDS)
    print(report.summary())  # noqa: T201 - pytest shows it when the test fails
    assert report.problems == []
    assert report.sessions_cut == 0
    for outcome in report.outcomes:
        assert outcome.end["peak"] == campaign.SCENARIOS[outcome.scenario].max_replicas
    reported = {"LoseAnswer", "Cut", "Expire", "Fail", "Reset", "Delay", "Refuse 429", "Refuse 409"}
    assert reported <= set(report.injected)
    assert report.log_tails == []  # the operator never ended by itself
