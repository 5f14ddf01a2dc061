"""Every format gives all frames in order, from any index on, and says what it holds."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceLimits, SourceOptions
from avatar_runtime.preparation.sources.reading import frame_time

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = 40


@pytest.fixture(scope="module", params=sorted(clips.FORMATS))
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats") / request.param
    return clips.write(path, clips.numbered(FRAMES), clips.FORMATS[request.param])


def numbers(source: Any, start: int = 0) -> list[int]:
    return [clips.read_number(picture) for picture in source.frames(start)]


def test_all_frames_come_in_order(clip: Path) -> None:
    source = sources.open(clip)
    assert numbers(source) == list(range(FRAMES))
    info = source.info
    assert (info.kind, info.frames, info.fps) == ("video", FRAMES, 25)
    assert (info.width, info.height) == (320, 240)
    assert info.source_seconds == pytest.approx(1.6)
    assert info.has_audio == (clip.name == "h264.mp4")
    assert source.notes == ()


@pytest.mark.parametrize("start", [1, 17, 39])
def test_frames_from_an_index_on_are_the_same(clip: Path, start: int) -> None:
    source = sources.open(clip)
    whole = list(source.frames())
    part = list(source.frames(start))
    assert len(part) == FRAMES - start
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], part, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "vp9.webm", "mpeg2.mpg"])
def test_a_late_index_is_exact_where_frames_are_reordered(tmp_path: Path, name: str) -> None:
    """A clip long enough to seek, with B-frames and a key frame every 2 seconds."""
    options = {"g": "50", "bf": "2"} if "mpeg2" in name else {"g": "50", "crf": "16"}
    coding = clips.with_options(clips.FORMATS[name], options=options)
    source = sources.open(clips.write(tmp_path / name, clips.numbered(250), coding))
    for start in (49, 50, 51, 123, 248):
        assert numbers(source, start) == list(range(start, 250))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm"])
def test_a_late_index_does_not_read_from_the_beginning(tmp_path: Path, name: str) -> None:
    coding = clips.with_options(clips.FORMATS[name], sound=False)
    coding = clips.with_options(coding, options={**coding.options, "g": "50"})
    source: Any = sources.open(clips.write(tmp_path / name, clips.numbered(250), coding))
    reading, frames = source._begin(Fraction(9))
    with reading:
        time = frame_time(next(frames))
        assert time is not None
        assert 6 <= time <= 9


def test_an_index_at_the_end_gives_nothing(tmp_path: Path) -> None:
    source = sources.open(clips.write(tmp_path / "a.mp4", clips.numbered(30)))
    assert list(source.frames(30)) == []


def test_frames_belong_to_the_receiver(tmp_path: Path) -> None:
    """Half the frame rate: each source frame is shown twice."""
    coding = clips.Coding(fps=Fraction(25, 2))
    source = sources.open(clips.write(tmp_path / "a.mp4", clips.numbered(20), coding))
    seen = []
    for picture in source.frames():
        seen.append(clips.read_number(picture))
        picture[:] = 0
    assert seen == [index // 2 for index in range(40)]


@pytest.mark.parametrize(
    "name", ["fragmented.mp4", "h264.mkv", "h264.ts", "mpeg4.avi", "animation.gif", "lossless.mkv"]
)
def test_a_cut_file_gives_the_frames_until_the_break(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, clips.numbered(100), clips.FORMATS[name])
    source = sources.open(clips.truncate(path, 0.7))
    found = numbers(source)
    assert 40 <= len(found) < 90
    # The last frames may be damaged where the file ends.
    assert found[:-3] == list(range(len(found) - 3))


def test_a_cut_matroska_says_how_long_it_claims_to_be(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.mkv", clips.numbered(100), clips.FORMATS["h264.mkv"])
    notes = sources.open(clips.truncate(path, 0.6)).notes
    assert any("although it claims 4.0 s" in note for note in notes)


def test_damage_in_the_middle_is_noted(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.mov", clips.numbered(100), clips.FORMATS["motion-jpeg.mov"])
    data = bytearray(path.read_bytes())
    for index in range(3):
        at = data.index(b"\xff\xd8\xff", len(data) * (3 + index) // 8)
        data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    source = sources.open(path)
    found = numbers(source)
    assert len(found) == 100
    assert any("3 damaged frames are skipped" in note for note in source.notes)


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(30))
    source = sources.open(path)
    clips.write(path, clips.numbered(60))
    with pytest.raises(errors.SourceError, match="changed while it was read"):
        next(source.frames())


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = clips.write(tmp_path / "a.mp4", clips.numbered(30))
    info = sources.open(path).info
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.record() == {
        "name": "a.mp4", "sha256": info.sha256, "kind": "video", "width": 320, "height": 240,
        "fps": 25, "start": 0.0, "end": 1.2, "crop": None,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp", ".avif", ".gif"])
def test_a_photo_is_one_frame(tmp_path: Path, suffix: str) -> None:
    (picture,) = clips.numbered(1, first=1365)
    source = sources.open(clips.photo(tmp_path / f"a{suffix}", picture))
    info = source.info
    assert (info.kind, info.frames, info.source_fps, info.end) == ("photo", 1, 0.0, 0.0)
    assert numbers(source) == [1365]
    assert source.notes == ()


def test_a_photo_has_no_start(tmp_path: Path) -> None:
    path = clips.photo(tmp_path / "a.png", clips.noise(100, 100))
    with pytest.raises(errors.SourceError, match="start and end apply to videos only"):
        sources.open(path, SourceOptions(start=1.0))


@pytest.mark.parametrize(
    ("frames", "limits", "fault"),
    [
        (24, {}, "lasts 0.96 s, must be at least 1 s"),
        (60, {"max_seconds": 2.0}, "lasts 2.4 s, must be at most 2 s"),
        (30, {"max_frame_pixels": 1000}, "has 320x240 pixels"),
        (30, {"max_video_bytes": 1000}, "must have at most"),
    ],
)
def test_limits_of_a_video(tmp_path: Path, frames: int, limits: dict[str, Any], fault: str) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(frames))
    with pytest.raises(errors.SourceError, match=fault):
        sources.open(path, SourceOptions(limits=SourceLimits(**limits)))
