"""Small files that a decoder would inflate to gibibytes are refused at the cost of a small one."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.preparation import bombs, clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceLimits, SourceOptions
from avatar_runtime.preparation.sources import files, png

ROOT = Path(__file__).parents[3]
PIXELS = 100_000_000
BOMB_MIB = 256
WMV = clips.Coding(codec="wmv2", options={"b": "4M"}, container="asf")
CODE = """
import json, sys, time
from pathlib import Path
from avatar_runtime import errors
from avatar_runtime.preparation import sources

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

before, began = peak(), time.process_time()
try:
    found = str(len(list(sources.open(sys.argv[1]).frames())))
except errors.SourceError as error:
    found = error.fault
cost = {"found": found, "mib": peak() - before, "seconds": time.process_time() - began}
print(json.dumps(cost))
"""


def cost_of(path: Path) -> dict[str, Any]:
    """Return what a program of its own found, its added peak memory and its CPU time."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path)],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=True,
    )  # fmt: skip
    cost: dict[str, Any] = json.loads(done.stdout)
    return cost


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


INFLATES = "has texts or colour profiles that inflate to more than 4 MiB"
MANY = "has more than 1000 chunks that are not pixels"
PIXELS_GO_ON = "has pixel data that inflate to more than 64x64 pixels hold"
FAULTS = {
    "profile.png": INFLATES, "text.png": INFLATES, "8-texts.png": INFLATES,
    "100-texts.png": INFLATES, "moving.apng": INFLATES, "text.mov": INFLATES,
    "text.mkv": INFLATES, "text.avi": INFLATES, "many.png": MANY, "pixels.png": PIXELS_GO_ON,
    "index.mov": "has a compressed QuickTime index",
    "tag.wmv": "has an ID3 tag in its header",
}  # fmt: skip


def make_bomb(path: Path) -> None:
    text = bombs.text(BOMB_MIB) if path.stem == "text" else b""
    match path.name:
        case "profile.png":
            path.write_bytes(bombs.png([bombs.profile(BOMB_MIB)]))
        case "text.png":
            path.write_bytes(bombs.png([text]))
        case "8-texts.png":
            path.write_bytes(bombs.png([bombs.text(32)] * 8))
        case "100-texts.png":
            path.write_bytes(bombs.png([bombs.text(3)] * 100))
        case "moving.apng":
            path.write_bytes(bombs.animated([bombs.profile(BOMB_MIB)]))
        case "many.png":
            texts = (bombs.chunk(b"tEXt", b"key%d\0v" % index) for index in range(50_000))
            path.write_bytes(bombs.png(texts))
        case "pixels.png":
            path.write_bytes(bombs.png(pixels=bombs.deflated(2048)))
        case "index.mov":
            path.write_bytes(bombs.packed_index(BOMB_MIB))
        case "tag.wmv":
            plain = clips.write(path, clips.numbered(30), WMV).read_bytes()
            path.write_bytes(bombs.add_id3(plain, BOMB_MIB))
        case _:
            bombs.in_container(path, bombs.png([text]))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FAULTS)
def test_a_bomb_costs_little(tmp_path: Path, name: str) -> None:
    """A decoder that inflates these takes 256 MiB and more, or 3 s of CPU and more."""
    path = tmp_path / name
    make_bomb(path)
    assert path.stat().st_size < 5 * bombs.MEBIBYTE
    cost = cost_of(path)
    assert cost["found"].startswith(FAULTS[name])
    assert cost["mib"] < 64
    assert cost["seconds"] < 1.5


@pytest.mark.parametrize("suffix", ["mov", "mkv", "avi"])
def test_plain_pngs_in_a_container_are_read(tmp_path: Path, suffix: str) -> None:
    source = sources.open(bombs.in_container(tmp_path / f"a.{suffix}", bombs.png()))
    assert len(list(source.frames())) == 30
    assert source.info.codec == "png"


def test_what_a_photo_may_carry(tmp_path: Path) -> None:
    """A profile of 2 MiB, a text of 1 MiB and 900 small texts."""
    texts = [bombs.chunk(b"tEXt", b"key%d\0v" % index) for index in range(900)]
    content = bombs.png([bombs.profile(2), bombs.text(1), *texts])
    assert len(list(sources.open(write(tmp_path / "a.png", content)).frames())) == 1


PROFILED = {
    "a.png": bombs.png([bombs.profile(1)]),
    "a.apng": bombs.animated([bombs.profile(1)]),
    "a.mov": bombs.png([bombs.profile(1)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILED)
def test_a_colour_profile_does_not_crash_the_process(tmp_path: Path, name: str) -> None:
    """PyAV frees the name of a profile twice; a process that does so ends by a signal."""
    path = tmp_path / name
    if path.suffix == ".mov":
        bombs.in_container(path, PROFILED[name])
    else:
        path.write_bytes(PROFILED[name])
    code = (
        "import gc, sys; from avatar_runtime.preparation import sources\n"
        "for _ in range(5): list(sources.open(sys.argv[1]).frames()); gc.collect()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_the_size_of_a_png_and_the_limit_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", bombs.png(pixels=b"", size=(20_000, 20_000)))
    with pytest.raises(errors.SourceError) as caught:
        sources.open(path)
    assert caught.value.fault == "is 20000x20000 pixels, must have at most 100 megapixels"


def test_a_png_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", bombs.png())
    os.truncate(path, 3 * bombs.MEBIBYTE)
    with pytest.raises(errors.SourceError, match="has 3 MiB, a photo must have at most 2 MiB"):
        sources.open(path, SourceOptions(limits=SourceLimits(max_photo_bytes=2 * bombs.MEBIBYTE)))


@pytest.mark.parametrize("flag", [0, 1])
def test_only_a_compressed_international_text_is_inflated(flag: int) -> None:
    body = b"Comment\0" + bytes([flag]) + b"\0en\0Kommentar\0" + bombs.deflated(5)
    data = memoryview(bombs.png([bombs.chunk(b"iTXt", body)]))
    if flag:
        with pytest.raises(png.Refused, match="4 MiB"):
            png.check_picture(data, None, PIXELS)
    else:
        assert png.check_picture(data, None, PIXELS) == png.Header(64, 64, 24)


@pytest.mark.parametrize("kind", [b"abCd", b"tEXt"])
def test_the_bytes_beside_the_pixels_are_bounded(kind: bytes) -> None:
    data = bombs.png([bombs.chunk(kind, bytes(17 << 20))] * 2)
    with pytest.raises(png.Refused, match="more than 32 MiB that are not pixels"):
        png.check_picture(memoryview(data), None, PIXELS)
    with pytest.raises(png.Refused, match="more than 32 MiB that are not pixels"):
        png.check_file(io.BytesIO(data), len(data), photo_pixels=PIXELS, frame_pixels=PIXELS)


@pytest.mark.parametrize(("moving", "limit"), [(False, 4096), (True, 4096)])
def test_a_photo_and_a_moving_png_have_limits_of_their_own(moving: bool, limit: int) -> None:
    data = bombs.animated([]) if moving else bombs.png()

    def check(photo: int, frame: int) -> bool:
        file = io.BytesIO(data)
        found = png.check_file(file, len(data), photo_pixels=photo, frame_pixels=frame)
        assert file.tell() == 0
        return found

    wide, narrow = PIXELS, limit - 1
    assert check(*((wide, limit) if moving else (limit, wide))) is moving
    assert check(*((narrow, limit) if moving else (limit, narrow))) is moving
    with pytest.raises(png.Refused, match="is 64x64 pixels"):
        check(*((wide, narrow) if moving else (narrow, wide)))


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16, 24, 48, 64]))
def test_the_bound_of_the_pixels_holds_interlaced_pictures(w: int, h: int, bits: int) -> None:
    """PNG specification, 8.2: the passes of Adam7, each row with one filter byte."""
    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2),
              (0, 1, 1, 2))  # fmt: skip
    total = 0
    for left, across, top, down in passes:
        columns, rows = len(range(left, w, across)), len(range(top, h, down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    assert total <= png.Header(w, h, bits).raw_bytes


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 9))
def test_every_written_png_passes(seed: int, depth: type, level: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (*rng.integers(1, 80, 2), rng.choice([1, 3, 4]))
    picture = rng.integers(0, np.iinfo(depth).max, shape, depth)
    data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
    header = png.check_picture(memoryview(data), None, PIXELS)
    assert header is not None
    assert (header.height, header.width) == picture.shape[:2]


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_pass_or_are_refused(data: bytes, signed: bool) -> None:
    content = png.SIGNATURE + data if signed else data
    for check in (
        lambda: png.check_picture(memoryview(content), None, PIXELS),
        lambda: png.check_file(
            io.BytesIO(content), len(content), photo_pixels=PIXELS, frame_pixels=PIXELS
        ),
    ):
        with suppress(png.Refused):
            check()


def test_a_chunk_that_claims_more_than_there_is() -> None:
    cut = bombs.png([bombs.text(5)])[: 8 + 25 + 4000]
    png.check_picture(memoryview(cut), None, PIXELS)
    claimed = struct.pack(">I4s", (1 << 32) - 1, b"zTXt") + b"Comment\0\0" + bombs.deflated(5)
    with pytest.raises(png.Refused, match="4 MiB"):
        png.check_picture(memoryview(png.SIGNATURE + claimed), None, PIXELS)


def test_the_pixels_of_many_chunks_are_one_stream() -> None:
    packed = zlib.compress(bytes(64 * 196 * 3))
    parts = [bombs.chunk(b"IDAT", packed[at : at + 3]) for at in range(0, len(packed), 3)]
    with pytest.raises(png.Refused, match="pixel data that inflate"):
        png.check_picture(memoryview(bombs.png(parts, pixels=b"")), None, PIXELS)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_compressed_index_across_two_reads_is_found(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a", b"123dcomzlib456")
    with path.open("rb", buffering=0) as opened:
        file = files.GuardedFile(opened, 60.0)
        with pytest.raises(files.Packed):
            [file.read(size) for size in (3 + cut, 2, 20)]
        assert file.packed


def test_a_wmv_without_a_tag_is_read(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.wmv", clips.numbered(30), WMV)
    assert len(list(sources.open(path).frames())) == 30


def test_parts_that_are_not_neighbours_are_no_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"dcom....zlib")
    with path.open("rb", buffering=0) as opened:
        file = files.GuardedFile(opened, 60.0)
        assert file.read(4) == b"dcom"
        file.seek(8)
        assert file.read(4) == b"zlib"
