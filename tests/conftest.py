"""What tests of several packages share: the one cluster of an e2e session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from localcluster import errors, paths
from localcluster.controlplane import cluster as controlplane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from localcluster.controlplane.cluster import ControlPlane


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """Give the control plane with process nodes whose GPUs are simulated.

    Started for the first who asks, shared by all tests of the session: use a namespace of your own.
    """
    state_dir = tmp_path_factory.mktemp("cluster")
    try:
        async with controlplane.running(state_dir, nodes=paths.SIMULATED_NODES) as running:
            yield running
    except errors.LocalClusterError as error:
        for log in sorted(paths.Layout.of(state_dir).logs.glob("*.log")):
            error.add_note(f"--- {log.name}\n{paths.tail(log)}")
        raise
