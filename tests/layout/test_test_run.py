"""The rules of a test run: a time limit for every test, no silent skip of a promised tool."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.conftest import LONGEST_FILES, SERIAL_FOLDERS, start_order

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test file in a process of its own with the settings and hooks of this repository."""
    file = folder / "test_sample.py"
    file.write_text(source)
    search = (ROOT / "tests", ROOT / "tests" / "cluster")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", folder,
         "-p", "conftest", "-p", "no:cacheprovider", "-q", *options, file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search))},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip


def test_every_test_has_a_time_limit() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert 0 < settings["timeout"] <= 120
    assert settings["timeout_method"] == "signal"


WAITING = """
import asyncio

async def test_waits() -> None:
    {marker}
    await asyncio.Event().wait()

def test_next() -> None:
    pass
"""


def test_a_coroutine_that_waits_forever_fails_and_the_next_test_runs(tmp_path: Path) -> None:
    done = run(tmp_path, WAITING.format(marker="pass"), "-o", "timeout=0.5")
    assert done.returncode == 1, done.stdout
    assert "Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


LIMITED = """
import pytest

def limit(request: pytest.FixtureRequest) -> float:
    marker = request.node.get_closest_marker("timeout")
    return marker.args[0] if marker else 0.0

@pytest.mark.slow
def test_slow(request: pytest.FixtureRequest) -> None:
    assert limit(request) > 120

@pytest.mark.slow
@pytest.mark.e2e
def test_slow_and_e2e(request: pytest.FixtureRequest) -> None:
    assert limit(request) > 300

@pytest.mark.gpu
def test_gpu(request: pytest.FixtureRequest) -> None:
    assert limit(request) > 300

@pytest.mark.slow
@pytest.mark.timeout(7)
def test_own_limit(request: pytest.FixtureRequest) -> None:
    assert limit(request) == 7

@pytest.mark.skipif(False, reason="no tool")
def test_tool(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("tools") is not None

@pytest.fixture
def helm() -> None:
    pass

def test_helm(helm: None, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("tools") is not None

def test_plain(request: pytest.FixtureRequest) -> None:
    assert limit(request) == 0
    assert request.node.get_closest_marker("tools") is None
"""


def test_the_hooks_set_the_limit_and_mark_what_needs_a_tool(tmp_path: Path) -> None:
    done = run(tmp_path, LIMITED, "-m", "gpu or not gpu")
    assert "7 passed" in done.stdout, done.stdout


REASONS = {
    "debian": "promtool is missing",
    "go": "helm is missing",
    "machine": "this machine has a CUDA device",
}
SKIPPED = """
import pytest

@pytest.mark.parametrize("reason", {reasons})
def test_inside(reason: str) -> None:
    pytest.skip(reason)

@pytest.mark.skipif(True, reason="{debian}")
def test_mark() -> None:
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("promised", "failed"),
    [((), 0), (("go",), 1), (("debian",), 2), (("go", "debian"), 3)],
)
def test_a_skip_fails_where_its_tool_is_promised(
    tmp_path: Path, promised: tuple[str, ...], failed: int
) -> None:
    source = SKIPPED.format(reasons=[*REASONS.values()], debian=REASONS["debian"])
    options = [word for name in promised for word in ("--promised", name)]
    done = run(tmp_path, source, "-rs", *options)
    assert done.returncode == (1 if failed else 0), done.stdout
    assert f"{4 - failed} skipped" in done.stdout
    assert REASONS["machine"] in done.stdout
    for name in promised:
        assert f"promised to be installed: {REASONS[name]}" in done.stdout


def test_a_whole_file_that_is_skipped_fails_too(tmp_path: Path) -> None:
    source = 'import pytest\npytest.skip("promtool is missing", allow_module_level=True)\n'
    assert "1 skipped" in run(tmp_path, source, "--promised", "go").stdout
    done = run(tmp_path, source, "--promised", "debian")
    assert done.returncode == 2, done.stdout
    assert "promised to be installed: promtool is missing" in done.stdout


SLOW_EXAMPLE = """
import time

from hypothesis import given
from hypothesis import strategies as st

@given(number=st.integers())
def test_takes_longer_than_the_default_deadline(number: int) -> None:
    until = time.monotonic() + 0.25
    while number == 0 and time.monotonic() < until:
        pass
"""


def test_an_example_that_the_machine_delays_does_not_fail(tmp_path: Path) -> None:
    done = run(tmp_path, SLOW_EXAMPLE)
    assert done.returncode == 0, done.stdout


PASSIVE = """
import os
import sys

assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
assert "torch" not in sys.modules

def test_nothing_else() -> None:
    pass
"""


def test_threads_do_not_take_the_processors_while_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    done = run(tmp_path, PASSIVE)
    assert "1 passed" in done.stdout, done.stdout


def test_the_longest_files_begin_first() -> None:
    nodeids = [f"{file}::test" for file in ("tests/charts/test_values.py", *LONGEST_FILES[::-1])]
    nodeids += [f"{LONGEST_FILES[1]}::test_again[a::b]"]
    ordered = [nodeid.partition("::")[0] for nodeid in sorted(nodeids, key=start_order)]
    first, second, *others = LONGEST_FILES
    assert ordered == [first, second, second, *others, "tests/charts/test_values.py"]
    for file in LONGEST_FILES:
        assert (ROOT / file).is_file(), f"{file} of LONGEST_FILES does not exist"


def test_the_distribution_keeps_the_order_of_the_files() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    distributed = [line for line in lines if "--dist loadfile" in line]
    assert distributed
    assert all("--no-loadscope-reorder" in line for line in distributed)


def test_make_looks_where_serial_tests_may_be() -> None:
    (line,) = [x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("SERIAL :=")]
    assert [f"{folder}/" for folder in line.split()[2:]] == list(SERIAL_FOLDERS)


MISPLACED = """
import pytest

@pytest.mark.e2e
def test_that_make_would_not_find() -> None:
    pass
"""


def test_a_serial_test_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "layout"
    folder.mkdir(parents=True)
    done = run(folder, MISPLACED, "--rootdir", str(tmp_path))
    assert done.returncode != 0
    assert "is in none of SERIAL_FOLDERS" in done.stdout + done.stderr
