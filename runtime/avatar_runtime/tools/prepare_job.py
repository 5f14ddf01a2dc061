"""Runs `avatar-runtime prepare` in a Job, and leaves its result for the operator.

The preparation runs in a process of its own, so that a process that is killed, for example for its
memory, leaves a result too. SIGTERM is passed on: the preparation stores what it has.
"""

from __future__ import annotations

import collections
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.tools import job_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KEPT_LINES: Final = 50
"""Lines of the error output that are kept for the message; all of them are in the log."""
USAGE: Final = 2
"""Exit status of wrong arguments, which are wrong in the next attempt too."""
REFUSED: Final = "refused"
_PREFIX: Final = "avatar-runtime:"


def run(arguments: Sequence[str], message: Path | None) -> int:
    """Run the preparation with these arguments; return its exit status, 128 + signal if killed."""
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        command = [sys.executable, "-m", "avatar_runtime", "prepare", *arguments]
        status, lines = _execute([*command, "--json", str(report_file)])
        report = _read(report_file)
    job_result.write(message, _result(status, lines, report, _option(arguments, "--out")))
    return status


def _execute(command: Sequence[str]) -> tuple[int, Sequence[str]]:
    """Return the exit status of a command, and the end of its error output, which is copied."""
    kept: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process,
        _passing_on(process),
    ):
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            kept.append(line)
        code = process.wait()
    return (code if code >= 0 else 128 - code), kept


@contextlib.contextmanager
def _passing_on(process: subprocess.Popen[str]) -> Iterator[None]:
    """Send SIGTERM and SIGINT on to a process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {
        number: signal.signal(number, lambda received, _: process.send_signal(received))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _result(
    status: int, lines: Sequence[str], report: Mapping[str, Any] | None, out: str
) -> dict[str, Any]:
    if status == 0:
        manifest = _read(Path(out) / "manifest.json")
        if manifest is not None:
            return job_result.succeeded(manifest, report or {})
        message = f"{out}/manifest.json was not written"
        return job_result.failed(message, permanent=False)
    refused = report is not None and report.get("verdict") == REFUSED
    message = str(report["sentence"]) if refused and report else ""
    message = message or job_result.last_line(lines, _PREFIX).removeprefix("error: ")
    if status == 128 + signal.SIGKILL:
        message = "the preparation was killed, probably because it needed more memory"
    message = message or f"the preparation ended with exit status {status}"
    permanent = refused or status == USAGE
    return job_result.failed(message, permanent=permanent, report=report)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _option(arguments: Sequence[str], name: str) -> str:
    for index, argument in enumerate(arguments):
        if argument == name:
            return "".join(arguments[index + 1 : index + 2])
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""
