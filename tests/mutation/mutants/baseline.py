"""Runs the unit tests once on the unchanged sources, to see which test runs which line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coverage import CoverageData

from mutants import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SELECTED: Final = "not gpu and not e2e and not tools"
"""The unit tests, with the slow ones."""
STARTS: Final = re.compile(r"sys\.executable|create_subprocess|subprocess\.")
BUDGET_S: Final = 25.0
"""How long the tests of one mutant take at most, by their times on the unchanged sources."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The tests for one mutant, and how long they take on the unchanged sources."""

    tests: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the run on the unchanged sources showed."""

    durations: Mapping[str, float]
    failed: tuple[str, ...]
    tests_by_line: Mapping[str, Mapping[int, frozenset[str]]]
    """Tests by file and line; `""` stands for the import of the file."""
    starters: frozenset[str] = frozenset()
    """The test files that start processes."""

    def planned(self, module: layout.Module, file: str, lines: Iterable[int]) -> Planned:
        """Return the tests that can see a change in some lines, the nearest and fastest first.

        A line that runs at import is seen by every test near the module. A line that no test runs
        itself may run in a process that a test starts: what remains are the tests that mirror the
        module and those in files that start processes.
        """
        by_line = self.tests_by_line.get(file, {})
        seen: set[str] = set().union(*(by_line.get(line, frozenset()) for line in lines))
        farthest = len(module.folders) + 1 if "" in seen else 0
        at_import = not seen or "" in seen
        chosen = []
        for test, duration in self.durations.items():
            rank = module.rank(test.partition("::")[0])
            starter = (
                not seen and rank < layout.STRANGE and test.partition("::")[0] in self.starters
            )
            if test in seen or starter or (at_import and rank <= farthest):
                chosen.append((rank, duration, test))
        tests: list[str] = []
        seconds = 0.0
        for _, duration, test in sorted(chosen):
            if seconds + duration <= BUDGET_S:
                tests.append(test)
                seconds += duration
        return Planned(tuple(tests), seconds)


def environment(copy: Path) -> dict[str, str]:
    """Return the environment in which the sources of a copy are imported."""
    roots = [*(copy / root for root in layout.source_roots(copy)), Path(__file__).parents[1]]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        **os.environ,
        **one_thread,
        "PYTHONPATH": os.pathsep.join(map(str, roots)),
        "PYTHONSAFEPATH": "1",
    }


def measure(copy: Path, folder: Path, tests: Iterable[str]) -> Baseline:
    """Run the tests in a copy of the repository and read what they ran."""
    settings, data, record = folder / "coveragerc", folder / "coverage", folder / "record.json"
    packages = [copy / package for package in layout.package_folders(copy)]
    listed = "".join(f"\n    {package}" for package in packages)
    settings.write_text(f"[run]\ndata_file = {data}\nsource ={listed}\n")
    data.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", SELECTED, "--no-header",
         "-p", "no:cacheprovider", "-p", "mutants.recording", "--cov", "--cov-context=test",
         f"--cov-config={settings}", "--cov-report=", *tests],
        cwd=copy,
        env={**environment(copy), "MUTANTS_RECORD": str(record)},
        check=False,
    )  # fmt: skip
    return read(copy, data, json.loads(record.read_text()))


def read(copy: Path, data_file: Path, record: Mapping[str, Any]) -> Baseline:
    """Read the data of coverage and the record of the tests."""
    data = CoverageData(str(data_file))
    data.read()
    tests_of_file: dict[str, list[str]] = defaultdict(list)
    for test in record["durations"]:
        tests_of_file[test.partition("::")[0]].append(test)
    by_line = {}
    for measured in data.measured_files():
        lines = {
            line: frozenset(_tests(contexts, tests_of_file))
            for line, contexts in data.contexts_by_lineno(measured).items()
        }
        by_line[str(Path(measured).relative_to(copy))] = lines
    starters = {file for file in tests_of_file if STARTS.search((copy / file).read_text())}
    return Baseline(record["durations"], tuple(record["failed"]), by_line, frozenset(starters))


def _tests(contexts: Iterable[str], tests_of_file: Mapping[str, list[str]]) -> Iterable[str]:
    for context in contexts:
        test, _, phase = context.rpartition("|")
        yield test
        # A fixture of a file or of the session is set up in one test for all the others.
        if phase == "setup":
            yield from tests_of_file[test.partition("::")[0]]
