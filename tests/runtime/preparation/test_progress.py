"""Tests of the progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from avatar_runtime.preparation import progress


def test_a_log_gets_a_line_each_ten_seconds() -> None:
    file, clock = io.StringIO(), iter([0.0, 5.0, 12.0, 13.0, 25.0, 26.0])
    lines = progress.Lines(file, lambda: next(clock))
    lines.stage("encode", 100, 20)
    for _ in range(4):
        lines.advance(20)
    lines.finish()
    assert file.getvalue().splitlines() == [
        "encode: 20/100 frames",
        "encode: 60/100 frames, 0:12 left",
        "encode: 100/100 frames, 26.0 s",
    ]


@pytest.mark.parametrize(
    ("done", "left", "elapsed", "text"),
    [(0, 100, 5.0, ""), (10, 90, 5.0, ", 0:45 left"), (1, 3600, 1.0, ", 60:00 left")],
)
def test_the_remaining_time_follows_from_the_frames_of_this_run(
    done: int, left: int, elapsed: float, text: str
) -> None:
    assert progress.remaining(done, left, elapsed) == text


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    with progress.shown(file) as shown:
        assert isinstance(shown, progress.Bar)
        shown.stage("encode", 10)
        shown.advance(10)
    assert "10/10" in file.getvalue()
