"""What tests of several packages share: the cluster of an e2e session, time limits and skips."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
from hypothesis import settings

from localcluster import errors, paths
from localcluster.controlplane import cluster as controlplane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator

    from localcluster.controlplane.cluster import ControlPlane

TIME_LIMITS_S: Final = {"e2e": 600.0, "gpu": 600.0, "slow": 300.0}
"""The time limit of a test by its marker; every other test has the `timeout` of pyproject.toml."""

TOOL_FIXTURES: Final = frozenset(
    {
        "actionlint",
        "cluster",
        "fleet",
        "helm",
        "images",
        "prometheus",
        "promtool",
        "redis_server",
        "release",
    }
)
"""Fixtures that run a program which is no Python package."""

GO_TOOLS: Final = ("actionlint", "etcd", "helm", "kube-", "kubectl", "kwok")
SKIPS_OF_THE_MACHINE: Final = (
    "this machine has a CUDA device",
    "this machine has NVIDIA's driver",
    "this machine reaches no registry of packages",
    "images are built as root",
    "a node with a kubelet needs root",
    "namespaces are not permitted",
    "cgroups are not permitted",
)
"""Reasons to skip that no installation removes."""

LONGEST_FILES: Final = (
    "tests/runtime/engine/test_reference_pictures.py",
    "tests/training/test_pipeline.py",
    "tests/runtime/preparation/test_pipeline.py",
    "tests/runtime/protocol/test_fuzz.py",
    "tests/runtime/preparation/test_resuming.py",
    "tests/runtime/preparation/test_source_memory.py",
    "tests/runtime/engine/test_faults.py",
    "tests/runtime/serving/test_resume.py",
    "tests/runtime/protocol/test_live_speaker.py",
    "tests/operator/simulator/test_world.py",
    "tests/gateway/test_usage_of_killed_gateways.py",
    "tests/training/test_gate_evaluation.py",
    "tests/client/test_video_modes.py",
    "tests/runtime/preparation/test_memory.py",
)
"""Files that take over 25 s; the longest come first.

`make test` distributes whole files over two processes: a long one that begins last runs alone.
"""

SERIAL_FOLDERS: Final = (
    *("tests/clients/", "tests/cluster/", "tests/e2e/", "tests/gateway/", "tests/operator/kube/"),
    *("tests/page/", "tests/runtime/serving/"),
)
"""Where `make test` looks for tests marked e2e or realtime, which run one after another."""

# By default, the threads of torch keep their processors busy while they wait for each other, which
# takes them from the other process of `make test` and from pods. The library reads this when it is
# loaded, so it is set before any import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    """Mark the tests that need a tool, set the time limit of the longer tests, and order them.

    Tests without the control plane come first: some measure times, and it stays up until the end.
    """
    for item in items:
        _check_folder(item)
        fixtures: Iterable[str] = getattr(item, "fixturenames", ())
        if item.get_closest_marker("skipif") or not TOOL_FIXTURES.isdisjoint(fixtures):
            item.add_marker("tools")
        own = item.get_closest_marker("timeout") is not None
        limits = [limit for name, limit in TIME_LIMITS_S.items() if item.get_closest_marker(name)]
        if limits and not own:
            item.add_marker(pytest.mark.timeout(max(limits)))
    items.sort(key=_start_order)


def _check_folder(item: pytest.Item) -> None:
    """Refuse a test that `make test` would never run."""
    is_serial = item.get_closest_marker("e2e") or item.get_closest_marker("realtime")
    if (
        is_serial
        and item.nodeid.startswith("tests/")
        and not item.nodeid.startswith(SERIAL_FOLDERS)
    ):
        raise pytest.UsageError(f"{item.nodeid} is in none of SERIAL_FOLDERS of tests/conftest.py")


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


def _start_order(item: pytest.Item) -> tuple[bool, int]:
    return "cluster" in getattr(item, "fixturenames", ()), start_order(item.nodeid)


def start_order(nodeid: str) -> int:
    """Return the place of a test's file among `LONGEST_FILES`; the other files come after them."""
    file = nodeid.partition("::")[0]
    return LONGEST_FILES.index(file) if file in LONGEST_FILES else len(LONGEST_FILES)


def promise_of(reason: str) -> str | None:
    """Return which installation removes this reason to skip, `None` if none does.

    Every reason that is not known counts as a Debian package, so that a new one is noticed.
    """
    if reason.startswith(SKIPS_OF_THE_MACHINE):
        return None
    return "go" if reason.startswith(GO_TOOLS) else "debian"


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Undo what a test does to the root logger: a command that runs in a test configures it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


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
