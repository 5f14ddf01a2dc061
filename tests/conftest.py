"""What tests of several packages share: the cluster of an e2e session, time limits and skips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
from hypothesis import settings

from localcluster import errors, paths
from localcluster.controlplane import cluster as controlplane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable

    from localcluster.controlplane.cluster import ControlPlane

TIME_LIMITS_S: Final = {"e2e": 600.0, "gpu": 600.0, "slow": 300.0}
"""The time limit of a test by its marker; every other test has the `timeout` of pyproject.toml."""

TOOL_FIXTURES: Final = frozenset(
    {"helm", "promtool", "prometheus", "cluster", "release", "redis_server"}
)
"""Fixtures that run a program which is no Python package."""

GO_TOOLS: Final = ("etcd", "helm", "kube-", "kubectl", "kwok")
SKIPS_OF_THE_MACHINE: Final = (
    "this machine has a CUDA device",
    "this machine has NVIDIA's driver",
    "this machine reaches no registry of packages",
)
"""Reasons to skip that no installation removes."""

# The time of an example is wall time, which other work on the machine makes longer: the time limit
# of the test itself ends one that hangs. The rest is the default profile, or that of CI.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which `make test` says what it has installed."""
    parser.addoption(
        "--promised",
        action="append",
        default=[],
        choices=("go", "debian"),
        help="fail each test that is skipped although these tools are installed (repeatable)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a tool, and set the time limit of the longer tests."""
    for item in items:
        fixtures: Iterable[str] = getattr(item, "fixturenames", ())
        if item.get_closest_marker("skipif") or not TOOL_FIXTURES.isdisjoint(fixtures):
            item.add_marker("tools")
        own = item.get_closest_marker("timeout") is not None
        limits = [limit for name, limit in TIME_LIMITS_S.items() if item.get_closest_marker(name)]
        if limits and not own:
            item.add_marker(pytest.mark.timeout(max(limits)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the missing tool is promised."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse_skip(report, item.config.getoption("promised"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole file that is skipped."""
    report = yield
    if report.skipped:
        _refuse_skip(report, collector.config.getoption("promised"))
    return report


def _refuse_skip(report: Any, promised: list[str]) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if promise_of(reason) in promised:
        report.outcome = "failed"
        report.longrepr = f"skipped, but the tool is promised to be installed: {reason}"


def promise_of(reason: str) -> str | None:
    """Return which installation removes this reason to skip, `None` if none does.

    Every reason that is not known counts as a Debian package, so that a new one is noticed.
    """
    if reason.startswith(SKIPS_OF_THE_MACHINE):
        return None
    return "go" if reason.startswith(GO_TOOLS) else "debian"


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
