"""Resampling to 25 frames per second by presentation time."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceOptions
from avatar_runtime.preparation.sources import timeline

if TYPE_CHECKING:
    from pathlib import Path

STEP = Fraction(1, 25)


def latest(times: list[Fraction], moment: Fraction) -> int:
    """Return the frame that a player shows at this moment."""
    shown = [index for index, time in enumerate(times) if time <= moment + timeline.SLACK]
    return shown[-1] if shown else 0


gaps = st.fractions(min_value=0, max_value=2, max_denominator=1000)


@pytest.mark.slow
@given(st.lists(gaps, min_size=1, max_size=30), gaps, st.integers(0, 40), st.integers(1, 60))
def test_each_frame_shows_the_latest_source_frame(
    steps: list[Fraction], start: Fraction, first: int, fps: int
) -> None:
    times = [sum(steps[:index], Fraction(0)) for index in range(len(steps))]
    made = list(
        timeline.resample(
            zip(times, range(len(times)), strict=True),
            start=start, first=first, count=40, fps=fps, step=STEP, last=Fraction(0),
        )
    )  # fmt: skip
    assert [index for index, _, _ in made] == list(range(first, 40))
    for index, time, frame in made:
        assert frame == latest(times, start + Fraction(index, fps))
        assert time == times[frame]


@pytest.mark.slow
@given(st.lists(st.one_of(st.none(), st.fractions(-1000, 1000)), min_size=1, max_size=50))
def test_the_clock_never_goes_back(stamps: list[Fraction | None]) -> None:
    clock = timeline.Clock(STEP)
    times = [clock.place(stamp) for stamp in stamps]
    assert times[0] == 0
    assert times == sorted(times)
    assert all(b - a <= timeline.LONGEST_PAUSE for a, b in pairwise(times))


@given(st.integers(1, 100_000))
def test_the_count_of_frames_does_not_drift(frames: int) -> None:
    """NTSC's 30000/1001 frames per second, up to an hour."""
    seconds = frames * Fraction(1001, 30_000)
    assert abs(timeline.count_frames(seconds, 25) - seconds * 25) <= Fraction(1, 2) or frames == 1


RATES = [
    ([(60, 30)], 50),
    ([(120, 60)], 50),
    ([(24, 12)], 50),
    ([(12, 12), (60, 60), (12, 12)], 75),
    ([(25, 25), (1, Fraction(1, 2)), (25, 25)], 100),
]


@pytest.mark.parametrize(("rates", "count"), RATES)
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm"])
def test_a_variable_rate_is_resampled_by_time(
    tmp_path: Path, name: str, rates: list[tuple[int, int]], count: int
) -> None:
    times = clips.mixed_times(rates)
    pictures = clips.numbered(len(times))
    coding = clips.with_options(clips.FORMATS[name], sound=False)
    source = sources.open(clips.write(tmp_path / name, pictures, coding, times))
    made = list(source.timed())
    # The last frame's length is not written to every file: it may be shown once or twice.
    assert abs(len(made) - count) <= 2
    for frame in made:
        shown = latest(times, Fraction(frame.index, 25))
        assert clips.read_number(frame.picture) == shown
        assert abs(frame.source_time - times[shown]) <= Fraction(1, 1000)


@pytest.mark.slow
def test_ntsc_rate(tmp_path: Path) -> None:
    coding = clips.Coding(fps=Fraction(30_000, 1001))
    source = sources.open(clips.write(tmp_path / "a.mp4", clips.numbered(300), coding))
    assert source.info.frames == 250
    assert source.info.source_fps == pytest.approx(29.97, abs=0.001)
    times = [index * Fraction(1001, 30_000) for index in range(300)]
    for frame in source.timed():
        assert clips.read_number(frame.picture) == latest(times, Fraction(frame.index, 25))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts"])
def test_reordered_frames_and_a_late_first_stamp(tmp_path: Path, name: str) -> None:
    """B-frames give an edit list in MP4; the first frame starts at 7 s on the clock of the file."""
    coding = clips.Coding(options={"preset": "medium", "bf": "3", "crf": "14"})
    times = [7 + Fraction(index, 25) for index in range(50)]
    source = sources.open(clips.write(tmp_path / name, clips.numbered(50), coding, times))
    made = list(source.timed())
    assert [clips.read_number(frame.picture) for frame in made] == list(range(50))
    assert made[0].source_time == 0


@pytest.mark.parametrize(
    ("fps", "shown"), [(Fraction(60), "60"), (Fraction(30_000, 1001), "29.97"), (12, "12")]
)
def test_another_frame_rate_is_noted(tmp_path: Path, fps: Fraction, shown: str) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(70), clips.Coding(fps=Fraction(fps)))
    note = f"the video has {shown} frames a second, and is converted to 25 frames a second"
    assert sources.open(path).notes == (note,)


def test_an_end_beyond_the_video_is_noted(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(50), clips.Coding())
    assert sources.open(path, SourceOptions(end=99)).notes == (
        "the end at 99 s lies beyond the end of the source, which is at 2.00 s and is used",
    )
    assert sources.open(path, SourceOptions(end=2.0)).notes == ()
    assert sources.open(path).notes == ()


def test_negative_stamps(tmp_path: Path) -> None:
    coding = clips.with_options(clips.FORMATS["h264.mkv"], muxing={"avoid_negative_ts": "disabled"})
    times = [Fraction(index - 10, 25) for index in range(50)]
    path = clips.write(tmp_path / "a.mkv", clips.numbered(50), coding, times)
    found = [clips.read_number(picture) for picture in sources.open(path).frames()]
    assert found == list(range(50))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1.0, 2.0, range(25, 50)), (None, 1.0, range(25)), (2.6, None, range(65, 100)),
     (0.5, 99.0, range(12, 100)), (1.0, 2.02, range(25, 51))],
)  # fmt: skip
def test_start_and_end(
    tmp_path: Path, start: float | None, end: float | None, expected: range
) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(100))
    source = sources.open(path, SourceOptions(start=start, end=end))
    found = [clips.read_number(picture) for picture in source.frames()]
    assert found == list(expected)[: len(found)]
    assert abs(len(found) - len(expected)) <= 1
    assert source.info.frames == len(found)
    assert source.info.start == (start or 0.0)


@pytest.mark.parametrize(
    ("start", "end", "fault"),
    [
        (3.0, 2.0, "start is 3 s, must be less than the end at 2.00 s"),
        (9.0, None, "start is 9 s, must be less than the end at 4.00 s"),
        (-1.0, None, "start is -1.0, must be a number of seconds from 0 on"),
        (None, float("nan"), "end is nan, must be"),
        (None, float("inf"), "end is inf, must be"),
        (1.0, 1.5, "the chosen part lasts 0.50 s, must be at least 1 s"),
    ],
)
def test_wrong_start_and_end(
    tmp_path: Path, start: float | None, end: float | None, fault: str
) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(100))
    with pytest.raises(errors.SourceError, match=fault):
        sources.open(path, SourceOptions(start=start, end=end))
