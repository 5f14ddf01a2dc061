"""Runs `avatar-runtime prepare` in a Job, and leaves its result for the operator.

The preparation runs in a process of its own, so that a process that is killed, for example for its
memory, leaves a result too. SIGTERM is passed on: the preparation stores what it has.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from avatar_contracts import exit_status
from avatar_runtime import settings
from avatar_runtime.tools import job_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LONGEST_REPORT: Final = 64 << 20
KEPT_LINES: Final = 50
"""Lines of the error output that are kept for the message; all of them are in the log."""
REFUSED: Final = "refused"
_PREFIX: Final = "avatar-runtime:"


def run(arguments: Sequence[str], message: Path | None) -> int:
    """Run the preparation with these arguments; return its exit status, 128 + signal if killed."""
    out = Path(_option(arguments, "--out"))
    command = [sys.executable, "-m", "avatar_runtime", "prepare", *arguments, "--json"]
    if not _option(arguments, "--device"):
        command += ["--device", settings.job_device(os.environ)]
    with tempfile.TemporaryFile() as printed:
        status, lines = _execute(command, printed)
        printed.seek(0)
        report = _parse(printed.read(LONGEST_REPORT))
    if report is None and status == 0:
        report = _read(out / "report.json")
    job_result.write(message, _result(status, lines, report, out))
    return status


def _execute(command: Sequence[str], output: IO[bytes]) -> tuple[int, Sequence[str]]:
    """Return the exit status of a command, and the end of its error output, which is copied.

    `output` gets what the command prints.
    """
    kept: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
    with (
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as process,
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
    status: int, lines: Sequence[str], report: Mapping[str, Any] | None, out: Path
) -> dict[str, Any]:
    if status == 0:
        manifest = _read(out / "manifest.json")
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
    permanent = refused or status in exit_status.PERMANENT
    return job_result.failed(message, permanent=permanent, report=report)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _option(arguments: Sequence[str], name: str) -> str:
    for index, argument in enumerate(arguments):
        if argument == name:
            return "".join(arguments[index + 1 : index + 2])
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""
