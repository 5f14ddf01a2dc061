"""A process that has imported the libraries and forks once for each mutant.

It reads one JSON object a line, `{"tests": [...], "limit_s": 60, "test_limit_s": 20, "output":
"file"}`, and answers `{"status": 1, "seconds": 2.5}`: the exit status of pytest, `null` after the
time limit.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARIES: Final = (
    "aiohttp.web", "av", "cv2", "fastapi", "httpx", "hypothesis.stateful", "jsonschema", "kopf",
    "kubernetes.client", "numpy", "openai", "pytest_asyncio", "safetensors.torch", "torch",
    "uvicorn", "websockets.asyncio.client", "yaml",
)  # fmt: skip
"""Imported once. None of our own packages: a mutant is imported after the fork."""
OPTIONS: Final = (
    "-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-p", "no:cov", "-m", "not e2e", "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
"""The warning says that plugins of pytest are imported before it starts, as they are here."""
MARK: Final = "MUTANTS_CHILD"


class Chosen:
    """A pytest plugin that keeps the chosen tests, in their order, each with a time limit."""

    def __init__(self, tests: Sequence[str], test_limit_s: float) -> None:
        self._order = {test: number for number, test in enumerate(tests)}
        self._limit_s = test_limit_s

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._order]
        items.sort(key=lambda item: self._order[item.nodeid])
        for item in items:
            item.add_marker(pytest.mark.timeout(self._limit_s), append=False)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be read as an answer
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    answers.write("{}\n")
    for number, line in enumerate(sys.stdin):
        answers.write(json.dumps(run(json.loads(line), f"{os.getpid()}-{number}")) + "\n")


def run(task: dict[str, Any], mark: str) -> dict[str, Any]:
    """Run the tests of one mutant in a child process."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_tests(task, mark)
    waiting = os.pidfd_open(child)
    ended, _, _ = select.select([waiting], [], [], task["limit_s"])
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(waiting)
    _kill_marked(mark)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return {"status": code, "seconds": round(time.monotonic() - started, 2)}


def _run_tests(task: dict[str, Any], mark: str) -> None:
    status = 3
    try:
        os.setsid()
        output = os.open(task["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ[MARK] = mark
        files = dict.fromkeys(test.partition("::")[0] for test in task["tests"])
        plugin = Chosen(task["tests"], task["test_limit_s"])
        status = int(pytest.main([*OPTIONS, *files], plugins=[plugin]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _kill_marked(mark: str) -> None:
    """End what the tests of one mutant started and left behind, known by its environment."""
    wanted = f"{MARK}={mark}\0".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    main()
