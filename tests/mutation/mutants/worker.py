"""A copy of the repository with a warm process that runs the tests of one mutant after another."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from mutants import baseline, layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEST_LIMIT_S: Final = 20.0
START_S: Final = 15.0
"""How long collecting the tests of a mutant takes at most."""
_stamps: Final = itertools.count(int(time.time()))


class HarnessError(Exception):
    """The run failed in a way that says nothing about a mutant."""


def outcome_of(status: int | None, output: str) -> str | None:
    """Return the outcome by the exit status of pytest, `None` for a fault of this tool."""
    if status == 0:
        return "survived"
    if status is None:
        return "timeout"
    if status < 0:
        return "killed"  # a signal ended the interpreter
    if status in {1, 2} and (named := killer(output)):
        return "timeout" if "Failed: Timeout" in named else "killed"
    if status == 3 and "PytestUnraisableExceptionWarning" in output:
        return "killed"  # it left a resource open, which pytest noticed after the last test
    if status == 4 and "while loading conftest" in output:
        return "killed"
    return None


def killer(output: str) -> str:
    """Return the line in which pytest names the test that failed, or `""`."""
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[-1] if lines else ""


@contextmanager
def changed(file: Path, source: str) -> Iterator[None]:
    """Give a file another content for a while.

    Its time of change is new each time, so no bytecode of another content is taken for it.
    """
    before = file.read_text()
    _write(file, source)
    try:
        yield
    finally:
        _write(file, before)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    stamp = next(_stamps)
    os.utime(file, (stamp, stamp))


def copy_repository(target: Path) -> Path:
    """Copy what git tracks, and new files that it does not ignore."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=layout.REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = layout.REPOSITORY / name
        if source.is_symlink() or source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    return target


class Worker:
    """Runs tests in a copy of the repository, with one changed file or none."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._output = copy.with_suffix(".txt")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutants.warm"],
            cwd=copy,
            env=baseline.environment(copy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the warm process end: it does so when its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def control(self, planned: baseline.Planned) -> None:
        """Run tests on the unchanged sources, so that no fault of this tool counts as a kill.

        Raises:
            HarnessError: a test fails.
        """
        status, _ = self._run(planned)
        if status != 0:
            raise HarnessError(f"status {status} on unchanged sources:\n{self._printed()}")

    def test(self, file: str, source: str, planned: baseline.Planned) -> tuple[str, float, str]:
        """Return the outcome, the seconds and the test that failed.

        Raises:
            HarnessError: pytest ended in a way that is no outcome.
        """
        with changed(self._copy / file, source):
            status, seconds = self._run(planned)
        output = self._printed()
        outcome = outcome_of(status, output)
        if outcome is None:
            raise HarnessError(f"status {status} with a mutant of {file}:\n{output}")
        return outcome, seconds, killer(output)

    def _run(self, planned: baseline.Planned) -> tuple[int | None, float]:
        task = {
            "tests": planned.tests,
            "limit_s": START_S + TEST_LIMIT_S + 4 * planned.seconds,
            "test_limit_s": TEST_LIMIT_S,
            "output": str(self._output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        answer = self._read()
        return answer["status"], answer["seconds"]

    def _printed(self) -> str:
        return self._output.read_text(errors="replace")

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HarnessError(f"the warm process of {self._copy} ended")
        return json.loads(line)
