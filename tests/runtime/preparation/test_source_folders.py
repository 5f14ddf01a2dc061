"""A folder of pictures."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceLimits, SourceOptions
from avatar_runtime.preparation.sources import folder

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 30


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures 1.png to 30.png; 10.png follows 9.png."""
    made = tmp_path / "pictures"
    made.mkdir()
    for number, picture in enumerate(clips.numbered(COUNT, 120, 80)):
        clips.photo(made / f"{number + 1}.png", picture)
    return made


def fault_of(path: Path, options: SourceOptions | None = None) -> errors.SourceError:
    with pytest.raises(errors.SourceError) as caught:
        list(sources.open(path, options).frames())
    return caught.value


def numbers(source: Any, start: int = 0) -> list[int]:
    return [clips.read_number(picture) for picture in source.frames(start)]


def test_each_picture_is_a_frame_in_natural_order(pictures: Path) -> None:
    source = sources.open(pictures)
    assert numbers(source) == list(range(COUNT))
    assert numbers(source, 12) == list(range(12, COUNT))
    assert numbers(source, COUNT) == []
    info = source.info
    assert (info.kind, info.name, info.frames, info.end) == ("folder", "pictures", COUNT, 1.2)
    assert (info.width, info.height) == (120, 80)
    assert [made.source_time for made in source.timed()][:2] == [0, Fraction(1, 25)]


def test_start_end_and_crop(pictures: Path) -> None:
    source = sources.open(pictures, SourceOptions(start=0.08, end=1.12, crop=(0, 10, 120, 70)))
    assert numbers(source) == list(range(2, 28))
    assert (source.info.width, source.info.height) == (120, 70)


def test_other_files_are_noted(pictures: Path) -> None:
    (pictures / "notes.txt").write_text("a")
    (pictures / ".hidden.png").write_text("a")
    assert sources.open(pictures).notes == ("1 file is no picture, ignored",)


def test_the_hash_depends_on_names_and_content(pictures: Path) -> None:
    first = sources.open(pictures).info.sha256
    assert sources.open(pictures).info.sha256 == first
    (pictures / "30.png").rename(pictures / "31.png")
    assert sources.open(pictures).info.sha256 != first


def test_an_end_beyond_the_last_picture_is_noted(pictures: Path) -> None:
    assert sources.open(pictures, SourceOptions(end=9)).notes == (
        "the end at 9 s lies beyond the end of the source, which is at 1.20 s and is used",
    )
    assert sources.open(pictures, SourceOptions(end=1.2)).notes == ()


def test_another_size_is_refused_by_name(pictures: Path) -> None:
    clips.photo(pictures / "7.png", clips.noise(80, 122))
    error = fault_of(pictures)
    assert error.path == str(pictures / "7.png")
    assert error.fault.startswith("has 122x80 pixels, must have 120x80")


def test_a_damaged_picture_is_refused_by_name(pictures: Path) -> None:
    (pictures / "9.png").write_bytes(b"not a picture")
    assert fault_of(pictures).path == str(pictures / "9.png")


def test_a_video_in_the_folder_is_refused(pictures: Path) -> None:
    clips.write(pictures / "5.gif", clips.numbered(30, 120, 80), clips.FORMATS["animation.gif"])
    error = fault_of(pictures)
    assert error.fault == "moves; a folder must hold still pictures only"


def test_a_link_out_of_the_folder_is_refused(pictures: Path) -> None:
    outside = clips.photo(pictures.parent / "secret.png", clips.noise(80, 120))
    (pictures / "99.png").symlink_to(outside)
    assert fault_of(pictures).fault == "is a link to a place outside the folder"


def test_too_few_and_too_many(pictures: Path, tmp_path: Path) -> None:
    limits = SourceLimits(max_pictures=29)
    fault = fault_of(pictures, SourceOptions(limits=limits)).fault
    assert fault == "holds more than 29 pictures"
    (tmp_path / "empty").mkdir()
    assert fault_of(tmp_path / "empty").fault.startswith("holds no picture (.avif, .bmp")
    for number in range(10, 31):
        (pictures / f"{number}.png").unlink()
    assert (
        fault_of(pictures).fault
        == "has 9 pictures, must have at least 25: 25 pictures are 1 second"
    )


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20, unique=True))
def test_numbers_sort_by_value(values: list[int]) -> None:
    names = [f"frame-{value}.png" for value in values]
    ordered = sorted(names, key=folder.natural_key)
    assert ordered == [f"frame-{value}.png" for value in sorted(values)]


@given(st.lists(st.text(max_size=12)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    backwards = list(reversed(names))
    assert sorted(names, key=folder.natural_key) == sorted(backwards, key=folder.natural_key)
