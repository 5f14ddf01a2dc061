"""Opens mutated files one after another and prints what happened to each, one line a file.

A program of its own, so that a crash of the decoder is seen as one. It ends itself where a file
takes longer than the deadline.
"""

from __future__ import annotations

import faulthandler
import sys
import tempfile
from pathlib import Path

import numpy as np
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import sources
from avatar_runtime.preparation.source import SourceOptions

DEADLINE_SECONDS = 30
MOST_FRAMES = 500
VIDEOS = (
    "h264.mp4", "fragmented.mp4", "h264.ts", "h264.mkv", "10bit.mp4", "hevc.mp4", "vp8.webm",
    "vp9.webm", "mpeg4.avi", "mpeg2.mpg", "motion-jpeg.mov", "prores.mov", "lossless.mkv",
    "animation.gif", "animation.apng",
)  # fmt: skip
PHOTOS = ("a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp", "a.avif")


def originals(folder: Path) -> list[tuple[str, bytes]]:
    """Return a file of each format, as name and content."""
    for name in VIDEOS:
        clips.write(folder / name, clips.moving(clips.noise(96, 128), 30, 9), clips.FORMATS[name])
    for name in PHOTOS:
        clips.photo(folder / name, clips.noise(96, 128), 6 if name == "a.jpg" else 1)
    return [(name, (folder / name).read_bytes()) for name in (*VIDEOS, *PHOTOS)]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with 1 to 16 flips, a cut, an insertion or a repeated part."""
    kind = int(rng.integers(5))
    at = int(rng.integers(len(data)))
    size = int(rng.integers(1, 200))
    if kind == 0:
        return data[: max(1, at)]
    if kind == 1:
        return data[:at] + rng.bytes(size) + data[at:]
    if kind == 2:
        return data[:at] + data[at + size :]
    made = bytearray(data)
    # Half of the flips hit the first 600 bytes, where the headers lie.
    reach = len(made) if kind == 3 else min(600, len(made))
    for _ in range(int(rng.integers(1, 17))):
        made[int(rng.integers(reach))] = int(rng.integers(256))
    return bytes(made)


def attempt(path: Path) -> str:
    """Return "frames N" or "refused: why"."""
    options = SourceOptions(max_side=128)
    try:
        source = sources.open(path, options)
        count = 0
        for picture in source.frames():
            assert picture.shape == (source.info.height, source.info.width, 3)
            assert picture.flags.owndata
            count += 1
            if count == MOST_FRAMES:
                break
        assert count <= source.info.frames
        assert all(note and "\n" not in note for note in source.notes)
    except errors.SourceError as error:
        return f"refused: {error.fault!r}"
    return f"frames {count}"


def main(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as root:
        files = originals(Path(root))
        for index in range(count):
            name, content = files[index % len(files)]
            path = Path(root) / f"{index}-{name}"
            path.write_bytes(mutate(content, rng))
            faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True)
            print(f"{index} {name}", end=" ", flush=True)  # noqa: T201
            print(attempt(path), flush=True)  # noqa: T201
            faulthandler.cancel_dump_traceback_later()
            path.unlink()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
