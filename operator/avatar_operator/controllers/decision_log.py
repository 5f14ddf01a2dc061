"""Writes the decisions of scaling to stdout or a file, one JSON object a line."""

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
MOST: Final = 10_000  # lines that wait to be written; more are dropped, and their number is told

_log = logging.getLogger(__name__)


class DecisionLog:
    """The owner of the log: decisions come in at once, and are written in a thread."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._decisions = decision_log.DecisionLog()
        self._lines: asyncio.Queue[str] = asyncio.Queue(MOST)
        self._dropped = 0

    def note(self, key: ServiceKey, result: inputs.ScalingResult) -> None:
        """Take a decision in, if there is a log."""
        if not self._target:
            return
        document = self._decisions.line(str(key), result)
        try:
            self._lines.put_nowait(json.dumps(document, separators=(",", ":")))
        except asyncio.QueueFull:
            self._dropped += 1
            self._decisions.forget(str(key))  # what follows does not follow from what is written

    async def run(self) -> None:
        """Write until cancelled; what is there by then is written yet."""
        try:
            while True:
                await self._write(await self._lines.get())
        finally:
            rest = self._rest()
            if rest:
                _append(self._target, rest)

    async def _write(self, first: str) -> None:
        lines = [first, *self._rest()]
        try:
            writing = asyncio.ensure_future(asyncio.to_thread(_append, self._target, lines))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # the thread goes on anyway, and what follows comes after it
                raise
        except OSError as error:
            self._dropped += len(lines)
            self._decisions.forget()
            _log.warning("decisions not written target=%s fault=%s", self._target, error)
        if self._dropped:
            _log.warning("decisions dropped count=%d", self._dropped)
            self._dropped = 0

    def _rest(self) -> list[str]:
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]


def _append(target: str, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(text)
