"""Shows how far a preparation is: a bar on a terminal, one line at a time elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Never, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

_LINE_S: Final = 10.0  # between two lines: a log of a Job stays short


class Progress(Protocol):
    """Shows one stage at a time."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` frames, of which an earlier run finished `done`."""
        ...

    def advance(self, frames: int) -> None: ...

    def finish(self) -> None:
        """End the last stage."""
        ...


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Ignore the stage."""

    def advance(self, frames: int) -> None:
        """Ignore the frames."""

    def finish(self) -> None:
        """Nothing is open."""


class Bar:
    """A tqdm bar with the remaining time."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._bar: tqdm[Never] | None = None

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self.finish()
        from tqdm import tqdm

        self._bar = tqdm(
            total=total, initial=done, desc=name, unit="frame", file=self._file, dynamic_ncols=True
        )

    def advance(self, frames: int) -> None:
        if self._bar is not None:
            self._bar.update(frames)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """A line at the start and the end of each stage, and every 10 s between them."""

    def __init__(self, file: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._file, self._now = file, now
        self._name, self._total, self._first, self._done = "", 0, 0, 0
        self._began = self._shown = 0.0

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self.finish()
        self._name, self._total, self._first, self._done = name, total, done, done
        self._began = self._shown = self._now()
        self._print("")

    def advance(self, frames: int) -> None:
        self._done += frames
        now = self._now()
        if now - self._shown >= _LINE_S and self._done < self._total:
            self._shown = now
            self._print(
                remaining(self._done - self._first, self._total - self._done, now - self._began)
            )

    def finish(self) -> None:
        if self._name:
            self._print(f", {self._now() - self._began:.1f} s")
            self._name = ""

    def _print(self, rest: str) -> None:
        print(f"{self._name}: {self._done}/{self._total} frames{rest}", file=self._file, flush=True)


def remaining(done: int, left: int, elapsed_s: float) -> str:
    """Return the end of a line: `, 1:05 left`; empty before the first frame."""
    if done <= 0:
        return ""
    seconds = round(elapsed_s / done * left)
    return f", {seconds // 60}:{seconds % 60:02d} left"


@contextmanager
def shown(file: TextIO | None = None) -> Iterator[Progress]:
    """Show progress on `file`, by default on standard error, until the block ends."""
    target = file or sys.stderr
    progress: Progress = Bar(target) if target.isatty() else Lines(target)
    try:
        yield progress
    finally:
        progress.finish()
