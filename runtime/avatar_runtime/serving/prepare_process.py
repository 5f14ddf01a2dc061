"""Runs `avatar-runtime prepare` in a process of its own, and turns its end into an answer.

The preparation needs seconds to minutes of processor time, and decoders of strangers' files may
fail in any way. Neither may disturb the sessions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import exit_status
from avatar_runtime.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from avatar_runtime.settings import EngineSettings

MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
_MAX_LOG_BYTES: Final = 64 * 1024  # the end of the standard error that is kept
_READ_BYTES: Final = 64 * 1024
_NICENESS: Final = 10  # sessions come first
_PREFIX: Final = "avatar-runtime: "
_EXPLAINED: Final = (exit_status.WRONG_INPUT, exit_status.TEMPORARY)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How the process ended."""

    status: int
    """Exit status; negative for a signal."""
    output: bytes
    log: str
    """End of the standard error."""


def arguments(engine: EngineSettings, source: Path, name: str, consent: str) -> list[str]:
    """Return the command that prepares `source` as the avatar `name` for the runtime's model."""
    own = engine.device == "cpu" or engine.device.startswith("simulated")
    version = [] if engine.version is None else [f"--version={engine.version}"]
    return [
        *(sys.executable, "-m", "avatar_runtime", "prepare", f"--source={source}"),
        f"--model={engine.model}",
        f"--out={engine.avatars}/{name}",
        f"--consent={consent}",
        f"--device={'cpu' if own else 'auto'}",
        *version,
        *("--json", "--force"),
    ]


async def run(command: Sequence[str], on_line: Callable[[str], None]) -> Result:
    """Run a command and return how it ended; `on_line` gets its latest line of progress.

    The process is killed if the caller is cancelled. A later run continues its work.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # one signal reaches its threads and processes, and no terminal's
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        with suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)
        output, log = await asyncio.gather(
            _tail(child.stdout, MAX_REPORT_BYTES), _tail(child.stderr, _MAX_LOG_BYTES, on_line)
        )
        return Result(await child.wait(), output, log.decode(errors="replace"))
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _tail(
    stream: asyncio.StreamReader, limit: int, on_line: Callable[[str], None] = lambda _: None
) -> bytes:
    """Read a stream to its end and return the last `limit` bytes."""
    kept = b""
    while chunk := await stream.read(_READ_BYTES):
        kept = (kept + chunk)[-limit:]
        lines = kept[-_READ_BYTES:].decode(errors="replace").splitlines(keepends=True)
        finished = [line.strip() for line in lines if line.endswith("\n") and line.strip()]
        if finished:
            on_line(finished[-1])
    return kept


def report_of(result: Result, source: str) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the report: 200, or 422 if the clip was refused.

    `source` is the path that messages call "the file".

    Raises:
        Rejection: 400 with the sentence of the command, 503 with it if the command may succeed
            later, or 500 if it broke.
    """
    if result.status in (0, exit_status.WRONG_INPUT):
        with suppress(ValueError):
            report = json.loads(result.output)
            if isinstance(report, dict):
                return (422 if result.status else 200), report
    lines = [line for line in result.log.splitlines() if line.startswith(_PREFIX)]
    if result.status in _EXPLAINED and lines:
        message = lines[-1].removeprefix(_PREFIX).replace(source, "the file")
        if result.status == exit_status.TEMPORARY:
            raise Rejection(503, 1013, "preparation_failed", message)
        raise Rejection(400, 1008, "unusable_input", message)
    _log.error("preparation failed status=%d: %s", result.status, result.log)
    message = f"the preparation ended with status {result.status}; the log of the runtime says why"
    raise Rejection(500, 1011, "preparation_failed", message)
