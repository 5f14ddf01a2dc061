"""Orientation, crop, scaling, square pixels and even sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceLimits, SourceOptions
from avatar_runtime.preparation.sources import fitting, orientation

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = clips.noise(96, 128, seed=4)


def first(path: Path, **options: Any) -> tuple[Any, Any]:
    source = sources.open(path, SourceOptions(**options))
    return source, next(source.frames())


def difference(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected.astype(int)).mean())


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_rotation_tag_is_followed(
    tmp_path: Path, suffix: str, degrees: int, mirror: bool
) -> None:
    path = clips.write(tmp_path / f"a{suffix}", clips.still(PICTURE, 25))
    source, found = first(clips.rotate_tag(path, degrees, mirror))
    mirrored = PICTURE[:, ::-1] if mirror else PICTURE
    assert difference(found, np.rot90(mirrored, -degrees // 90)) < 5
    assert (source.info.source_width, source.info.source_height) == found.shape[1::-1]
    assert bool(source.notes) == bool(degrees or mirror)


@pytest.mark.parametrize("value", range(1, 9))
def test_the_exif_orientation_is_followed(tmp_path: Path, value: int) -> None:
    path = clips.photo(tmp_path / "a.jpg", PICTURE, value)
    _, found = first(path)
    assert difference(found, cv2.imread(str(path))) < 4


def test_a_slanted_matrix_is_ignored() -> None:
    import struct

    matrix = struct.pack("=9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    found = orientation.from_matrix(matrix)
    assert not found.exact
    assert found.size(4, 3) == (4, 3)
    assert "ignored" in found.describe()


@given(st.binary(max_size=40))
def test_any_matrix_gives_an_orientation(data: bytes) -> None:
    found = orientation.from_matrix(data)
    assert found.apply(PICTURE).shape[1::-1] == found.size(128, 96)


@pytest.mark.parametrize(("height", "width"), [(95, 128), (96, 127), (95, 127)])
def test_an_odd_size_loses_a_row_or_column(tmp_path: Path, height: int, width: int) -> None:
    path = clips.write(
        tmp_path / "a.mkv", clips.still(PICTURE[:height, :width], 25), clips.LOSSLESS
    )
    source, found = first(path)
    even = PICTURE[: height // 2 * 2, : width // 2 * 2]
    assert np.array_equal(found, even)
    assert any("is cut off to make the size even" in note for note in source.notes)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (170, 96)), (Fraction(3, 4), (128, 128)), (Fraction(2), (256, 96))],
)
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    coding = clips.Coding(pixel_aspect=aspect)
    source, found = first(clips.write(tmp_path / "a.mp4", clips.still(PICTURE, 25), coding))
    assert found.shape[1::-1] == size
    expected = cv2.resize(PICTURE, size, interpolation=cv2.INTER_CUBIC)
    assert difference(found, expected) < 5
    assert any("square pixels" in note for note in source.notes)


@pytest.mark.parametrize("aspect", [Fraction(100), Fraction(1, 5), Fraction(-1)])
def test_absurd_pixels_are_ignored(aspect: Fraction) -> None:
    assert fitting.square_pixels(128, 96, aspect) is None


def test_the_crop_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    path = clips.rotate_tag(clips.write(tmp_path / "a.mp4", clips.still(PICTURE, 25)), 90)
    source, found = first(path, crop=(10, 20, 70, 80))
    upright = np.rot90(PICTURE, -1)
    assert difference(found, upright[20:100, 10:80]) < 5
    assert source.info.record()["crop"] == [10, 20, 70, 80]


@pytest.mark.parametrize(
    "crop", [(-1, 0, 70, 70), (0, 0, 0, 70), (100, 0, 70, 70), (0, 50, 70, 70), (0, 0, 10**9, 70)]
)
def test_a_crop_outside_is_refused(tmp_path: Path, crop: tuple[int, int, int, int]) -> None:
    path = clips.photo(tmp_path / "a.png", PICTURE)
    with pytest.raises(errors.SourceError, match="must lie inside the picture of 128x96 pixels"):
        sources.open(path, SourceOptions(crop=crop))


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(64, 4000))
def test_the_plan_keeps_the_shape(width: int, height: int, most: int) -> None:
    fit = fitting.plan(width, height, None, most)
    if isinstance(fit, str):
        assert f"at least {fitting.SMALLEST_SIDE}" in fit
        return
    assert max(fit.result) <= most
    assert min(fit.result) >= fitting.SMALLEST_SIDE
    assert fit.result[0] % 2 == fit.result[1] % 2 == 0
    # The ratio of the sides is off by at most the rounding of each to a pixel.
    assert abs(fit.scaled[0] * height - fit.scaled[1] * width) <= (width + height) / 2


@pytest.mark.slow
def test_4k_is_scaled_down_and_says_so(tmp_path: Path) -> None:
    picture = clips.noise(2160, 3840)
    source, found = first(clips.write(tmp_path / "a.mp4", clips.still(picture, 25)))
    expected = cv2.resize(picture, (1920, 1080), interpolation=cv2.INTER_AREA)
    assert difference(found, expected) < 4
    note = "the picture is scaled down from 3840x2160 to 1920x1080 pixels"
    assert note in source.notes
    assert source.info.source_width == 3840


def test_a_cropped_part_is_scaled(tmp_path: Path) -> None:
    picture = clips.noise(400, 600)
    path = clips.photo(tmp_path / "a.png", picture)
    _, found = first(path, crop=(100, 100, 400, 200), max_side=200)
    part = np.ascontiguousarray(picture[100:300, 100:500])
    assert difference(found, cv2.resize(part, (200, 100), interpolation=cv2.INTER_AREA)) < 1


def test_a_size_that_changes_in_the_middle(tmp_path: Path) -> None:
    """Two MPEG streams joined, as recorders do when a phone is turned."""
    coding = clips.FORMATS["mpeg2.mpg"]
    parts = [
        clips.write(tmp_path / "a.mpg", clips.still(PICTURE, 30), coding),
        clips.write(tmp_path / "b.mpg", clips.still(PICTURE[:80, :112], 30), coding),
    ]
    joined = tmp_path / "c.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(errors.SourceError, match="changes its size from 128x96 to 112x80"):
        list(sources.open(joined).frames())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff"])
def test_a_photo_above_the_limit_is_refused_before_decoding(tmp_path: Path, suffix: str) -> None:
    path = clips.photo(tmp_path / f"a{suffix}", PICTURE)
    limits = SourceLimits(max_photo_pixels=10_000, max_frame_pixels=10_000)
    with pytest.raises(errors.SourceError, match=r"(more than|at most) 0\.01 megapixels"):
        sources.open(path, SourceOptions(limits=limits))
