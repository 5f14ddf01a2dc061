"""Decoded colours against the formulas of BT.601, BT.709 and BT.2020, computed here in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceOptions
from avatar_runtime.preparation.sources import colours

if TYPE_CHECKING:
    from pathlib import Path

BT709, UNSPECIFIED, BT601, BT2020 = 1, 2, 6, 9
# Weights of red and blue in luma: ITU-R BT.709, BT.601, BT.2020.
WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}
# (blue, green, red) of the patches; skin tones among them.
PATCHES = [
    (20, 20, 200), (20, 200, 20), (200, 20, 20), (150, 180, 220), (60, 80, 120), (0, 0, 0),
    (255, 255, 255), (128, 128, 128),
]  # fmt: skip
SIDE = 64


def planes(matrix: int, full: bool, width: int = 0, height: int = SIDE) -> Any:
    """Return a frame in yuv444p whose columns are the patches."""
    red_weight, blue_weight = WEIGHTS[matrix]
    blue, green, red = (np.array(PATCHES, float) / 255).T
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = [(blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)]
    scale, lift, spread = (255, 0, 255) if full else (219, 16, 224)
    values = [luma * scale + lift, *(part * spread + 128 for part in chroma)]
    coded = np.clip(np.rint(np.array(values)), 0, 255).astype(np.uint8)
    columns = (width or SIDE * len(PATCHES)) // len(PATCHES)
    picture = np.repeat(coded[:, None, :], height, axis=1).repeat(columns, axis=2)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="yuv444p")


def patches(picture: Any) -> Any:
    """Return the colour in the middle of each patch."""
    height, width = picture.shape[:2]
    count = len(PATCHES)
    return np.array(
        [picture[height // 2, width * (2 * i + 1) // (2 * count)] for i in range(count)]
    )


def coding(matrix: int, full: bool = False, **changes: Any) -> clips.Coding:
    options = {"qp": "0", "preset": "ultrafast"}
    made = clips.Coding(pixel_format="yuv444p", matrix=matrix, full_range=full, options=options)
    return clips.with_options(made, **changes)


def decoded(path: Path, options: SourceOptions | None = None) -> Any:
    return patches(next(sources.open(path, options).frames())).astype(int)


def tagged(frame: Any, matrix: int, full: bool) -> Any:
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [BT709, BT601, BT2020])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_tagged_colours_are_right(tmp_path: Path, name: str, matrix: int, full: bool) -> None:
    frames = [tagged(planes(matrix, full), matrix, full) for _ in range(25)]
    path = clips.write(tmp_path / name, frames, coding(matrix, full))
    # 8-bit chroma alone is off by up to 2 levels.
    assert np.abs(decoded(path) - np.array(PATCHES)).max() <= 3


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(512, 64, BT601), (1280, 64, BT709), (512, 720, BT709)]
)
def test_untagged_colours_are_guessed_by_size(
    tmp_path: Path, width: int, height: int, matrix: int
) -> None:
    frames = [planes(matrix, False, width, height) for _ in range(25)]
    path = clips.write(tmp_path / "a.mkv", frames, coding(UNSPECIFIED))
    assert np.abs(decoded(path) - np.array(PATCHES)).max() <= 3


@pytest.mark.parametrize("matrix", [BT709, BT601])
def test_interlaced_colours_are_right(tmp_path: Path, matrix: int) -> None:
    """The filter that joins the fields keeps the matrix and the range."""
    options = {"qp": "0", "preset": "ultrafast", "flags": "+ildct+ilme"}
    frames = [tagged(planes(matrix, False), matrix, False) for _ in range(30)]
    path = clips.write(tmp_path / "a.mp4", frames, coding(matrix, options=options))
    source = sources.open(path)
    assert "the video is interlaced; each two fields become one frame" in source.notes
    made = list(source.timed())
    assert len(made) == 30
    assert [frame.source_time * 25 for frame in made] == list(range(30))
    assert np.abs(patches(made[7].picture).astype(int) - np.array(PATCHES)).max() <= 3


def bars() -> Any:
    row = np.repeat(np.array(PATCHES, np.uint8), SIDE, axis=0)
    return np.repeat(row[None], SIDE, axis=0)


@pytest.mark.parametrize(
    "name", ["10bit.mp4", "prores.mov", "motion-jpeg.mov", "lossless.mkv", "hevc.mp4", "vp9.webm"]
)
def test_colours_of_each_format(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, clips.still(bars(), 25), clips.FORMATS[name])
    limit = 8 if name == "vp9.webm" else 4
    assert np.abs(decoded(path) - np.array(PATCHES)).max() <= limit


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".jpg"])
def test_colours_of_photos(tmp_path: Path, suffix: str) -> None:
    path = clips.photo(tmp_path / f"a{suffix}", bars())
    assert np.abs(decoded(path) - np.array(PATCHES)).max() <= (4 if suffix == ".jpg" else 0)


def test_a_photo_with_16_bits(tmp_path: Path) -> None:
    path = clips.photo(tmp_path / "a.png", bars().astype(np.uint16) * 257)
    assert np.abs(decoded(path) - np.array(PATCHES)).max() <= 1


@pytest.mark.slow
def test_hdr_is_mapped_to_a_normal_screen(tmp_path: Path) -> None:
    """Grey stays grey, brighter stays brighter, and the diffuse white of HDR is not dark."""
    steps = np.repeat(np.linspace(0, 190, 8).astype(np.uint8), SIDE)
    picture = np.repeat(np.repeat(steps[None, :, None], SIDE, axis=0), 3, axis=2)
    made = clips.Coding(pixel_format="yuv420p10le", matrix=BT2020, transfer=16, primaries=9)
    path = clips.write(tmp_path / "a.mp4", clips.still(picture, 25), made)
    source = sources.open(path)
    found = patches(next(source.frames())).astype(int)
    assert any("the source is HDR" in note for note in source.notes)
    assert np.ptp(found, axis=1).max() <= 3
    assert (np.diff(found[:, 1]) >= 0).all()
    # Signal 0.58 of PQ is 203 cd/m2, reference white (ITU-R BT.2408).
    assert found[5, 1] > 150
    assert found[0, 1] < 10


def to_srgb(values: Any) -> Any:
    """Return Display P3 colours (red, green, blue) in sRGB; both have the same transfer."""
    share = np.asarray(values) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    # Matrix from P3 to BT.709 primaries, both with the white of D65.
    matrix = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    mixed = np.clip(linear @ matrix.T, 0, 1)
    coded = np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)
    return coded * 255


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [1, UNSPECIFIED, 13])
def test_wide_colours_become_srgb(tmp_path: Path, transfer: int) -> None:
    """Display P3, the colours of a phone's camera; 13 is the transfer of sRGB."""
    made = coding(BT709, transfer=transfer, primaries=12)
    frames = []
    for _ in range(25):
        frame = tagged(planes(BT709, False), BT709, False)
        frame.color_trc, frame.color_primaries = transfer, 12
        frames.append(frame)
    source = sources.open(clips.write(tmp_path / "a.mp4", frames, made))
    found = patches(next(source.frames())).astype(int)
    assert any("wide colour range" in note for note in source.notes)
    expected = to_srgb(np.array(PATCHES)[:, ::-1])[:, ::-1]
    skin, grey = [3, 4], [5, 6, 7]
    # swscale also compresses the colours towards sRGB; unconverted, red would be off by 7.8.
    assert np.abs(found - expected)[skin].max() <= 6
    assert np.abs(found - expected)[grey].max() <= 1
    assert found[4, 2] > PATCHES[4][2] + 3


RAMP = np.dstack([bars(), np.tile(np.linspace(0, 255, bars().shape[1]), (SIDE, 1))]).astype(
    np.uint8
)
ALPHA = {
    "a.png": None,
    "a.webp": None,
    "a.mkv": clips.Coding(codec="ffv1", pixel_format="bgra", options={}),
    "a.mov": clips.Coding(
        codec="prores_ks", pixel_format="yuva444p10le", options={"profile": "4444"}
    ),
    "a.webm": clips.Coding(
        codec="libvpx-vp9", pixel_format="yuva420p",
        options={"crf": "4", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("background", ["", "#00b140", "#FF8000"])
@pytest.mark.parametrize("name", ALPHA)
def test_transparent_pixels_show_the_background(tmp_path: Path, name: str, background: str) -> None:
    made, path = ALPHA[name], tmp_path / name
    if made is None:
        clips.photo(path, RAMP)
    else:
        clips.write(path, clips.still(RAMP, 25), made)
    source = sources.open(path, SourceOptions(background=background))
    found = patches(next(source.frames())).astype(int)
    under = np.array({"": (0, 0, 0), "#00b140": (64, 177, 0), "#FF8000": (0, 128, 255)}[background])
    values = patches(RAMP).astype(float)
    share = values[:, 3:] / 255
    limit = {".png": 1, ".webp": 1, ".mkv": 1, ".mov": 4, ".webm": 12}[path.suffix]
    assert np.abs(found - (values[:, :3] * share + under * (1 - share))).max() <= limit
    note = "the source has transparent pixels, which show the background colour"
    assert note in source.notes


@pytest.mark.parametrize("under", [(0, 0, 0), (64, 177, 0), (255, 255, 255)])
def test_every_transparency_is_rounded_to_the_nearest_level(under: tuple[int, int, int]) -> None:
    value, alpha = np.indices((256, 256))
    picture = np.dstack([value, 255 - value, value, alpha]).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="bgra")
    made = colours.Converter(under).convert(frame, 256, 256)
    above = picture[..., :3].astype(int)
    exact = (above * alpha[..., None] + np.array(under) * (255 - alpha[..., None]) + 127) // 255
    np.testing.assert_array_equal(made, exact)


def test_an_opaque_alpha_channel_is_not_noted(tmp_path: Path) -> None:
    opaque = np.dstack([bars(), np.full(bars().shape[:2], 255, np.uint8)])
    assert sources.open(clips.photo(tmp_path / "a.png", opaque)).notes == ()


@pytest.mark.parametrize("text", ["red", "#12345", "#1234567", "#ggg000", "#12345\n"])
def test_a_wrong_background_is_refused(tmp_path: Path, text: str) -> None:
    assert colours.parse_background(text) is None
    path = clips.photo(tmp_path / "a.png", bars())
    with pytest.raises(errors.SourceError, match="must be a colour such as #00ff00"):
        list(sources.open(path, SourceOptions(background=text)).frames())
