"""Writes the scaling decisions to stdout or a file, one JSON object per line."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import decision_log, inputs

if TYPE_CHECKING:
    from avatar_operator.core.resources.service import ServiceKey

STDOUT: Final = "-"
MAX_LINES: Final = 10_000  # lines that wait to be written; further lines are dropped and counted

_log = logging.getLogger(__name__)


class DecisionLogWriter:
    """Queues the decisions and writes them in a thread."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._decisions = decision_log.DecisionLog()
        self._lines: asyncio.Queue[str] = asyncio.Queue(MAX_LINES)
        self._dropped = 0

    def write(self, key: ServiceKey, result: inputs.ScalingResult) -> None:
        """Queue a decision, if there is a log."""
        if not self._target:
            return
        document = self._decisions.line(str(key), result)
        try:
            self._lines.put_nowait(json.dumps(document, separators=(",", ":")))
        except asyncio.QueueFull:
            self._dropped += 1
            self._decisions.forget(str(key))  # after a gap the next line is complete

    async def run(self) -> None:
        """Write until cancelled; the decisions that are queued by then are still written."""
        try:
            while True:
                await self._write_batch(await self._lines.get())
        finally:
            queued = self._take_queued()
            if queued:
                _append(self._target, queued)

    async def _write_batch(self, first: str) -> None:
        lines = [first, *self._take_queued()]
        try:
            writing = asyncio.ensure_future(asyncio.to_thread(_append, self._target, lines))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # the thread continues anyway; later lines must follow its lines
                raise
        except OSError as error:
            self._dropped += len(lines)
            self._decisions.forget()
            _log.warning("cannot write decisions target=%s fault=%s", self._target, error)
        if self._dropped:
            _log.warning("decisions dropped count=%d", self._dropped)
            self._dropped = 0

    def _take_queued(self) -> list[str]:
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]


def _append(target: str, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(text)
