"""A folder of pictures as a source: one frame for each picture, in natural order."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import SourceError
from avatar_runtime.preparation.source import SourceInfo, TimedPicture
from avatar_runtime.preparation.sources import files, probing, shaping, video

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from avatar_runtime.preparation.source import SourceOptions

PICTURES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
)
_DIGITS: Final = re.compile(r"(\d+)")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return the sort key by which `2.png` comes before `10.png`."""
    parts = _DIGITS.split(name.casefold())
    key = [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
    return [*key, (2, 0, name)]


def open_folder(path: Path, options: SourceOptions) -> FolderSource:
    """Open a folder of pictures.

    Raises:
        SourceError: The folder has no or too many pictures, or the first one cannot be used.
    """
    pictures, ignored = _list(path, options.limits.max_pictures)
    first = video.open_file(pictures[0], replace(options, start=None, end=None))
    if first.info.kind != "photo":
        raise SourceError(str(pictures[0]), "moves; a folder must hold still pictures only")
    return FolderSource(path, pictures, ignored, first, options)


def _list(path: Path, most: int) -> tuple[list[Path], int]:
    """Return the pictures in natural order and the number of other files."""
    pictures: list[Path] = []
    others = 0
    try:
        for entry in path.iterdir():
            if entry.suffix.lower() in PICTURES and not entry.name.startswith("."):
                pictures.append(entry)
            else:
                others += not entry.name.startswith(".")
            if len(pictures) > most:
                raise SourceError(str(path), f"holds more than {most} pictures")
    except OSError as error:
        raise SourceError(str(path), f"cannot be listed: {error.strerror}") from None
    if not pictures:
        raise SourceError(str(path), f"holds no picture ({', '.join(sorted(PICTURES))})")
    inside = path.resolve()
    for entry in pictures:
        if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
            raise SourceError(str(entry), "is a link to a place outside the folder")
    return sorted(pictures, key=lambda entry: natural_key(entry.name)), others


class FolderSource:
    """One frame for each picture."""

    def __init__(
        self,
        path: Path,
        pictures: list[Path],
        ignored: int,
        first: video.VideoSource,
        options: SourceOptions,
    ) -> None:
        self._path = path
        self._options = replace(options, start=None, end=None)
        self._size = (first.info.source_width, first.info.source_height)
        fps = options.fps
        _require_length(path, len(pictures), options)
        length = Fraction(len(pictures), fps)
        chosen = probing.choose(path, length, options)
        offset = int(chosen.start * fps)
        self._pictures = pictures[offset : offset + chosen.count]
        self._offset = offset
        notes = (*_ignored(ignored), *probing.time_notes(chosen, fps, options))
        self.info = _info(path, first.info, self._pictures, notes, chosen, length)

    @property
    def notes(self) -> tuple[str, ...]:
        """`info.notes`; an iteration adds none."""
        return self.info.notes

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures from index `start` on."""
        return (timed.picture for timed in self.timed(start))

    def timed(self, start: int = 0) -> Iterator[TimedPicture]:
        """Yield the pictures from index `start` on with their times."""
        converter = shaping.converter(str(self._path), self._options)
        for index in range(start, len(self._pictures)):
            path = self._pictures[index]
            size, picture = video.read_photo(path, self._options, converter)
            if size != self._size:
                raise SourceError(
                    str(path),
                    f"has {size[0]}x{size[1]} pixels, must have {self._size[0]}x{self._size[1]} "
                    "as the first picture of the folder",
                )
            time = Fraction(index + self._offset, self._options.fps)
            yield TimedPicture(index, time, picture)


def _require_length(path: Path, count: int, options: SourceOptions) -> None:
    least = math.ceil(options.limits.min_seconds * options.fps)
    if count < least:
        noun = "picture" if count == 1 else "pictures"
        raise SourceError(
            str(path),
            f"has {count} {noun}, must have at least {least}: {options.fps} pictures are 1 second",
        )


def _ignored(count: int) -> list[str]:
    return [f"{count} {'file is' if count == 1 else 'files are'} no picture, ignored"] * (count > 0)


def _info(
    path: Path,
    first: SourceInfo,
    pictures: list[Path],
    notes: tuple[str, ...],
    chosen: probing.Part,
    length: Fraction,
) -> SourceInfo:
    return replace(
        first,
        name=path.resolve().name,
        sha256=_digest(pictures),
        kind="folder",
        frames=len(pictures),
        source_fps=float(first.fps),
        source_seconds=float(length),
        start=float(chosen.start),
        end=float(chosen.end),
        notes=(*first.notes, *notes),
    )


def _digest(pictures: list[Path]) -> str:
    """Return the SHA-256 over the name and the SHA-256 of each picture, one line each."""
    return hashlib.sha256(b"".join(_line(path) for path in pictures)).hexdigest()


def _line(path: Path) -> bytes:
    with files.open_regular(path, 1 << 40) as file:
        return f"{files.digest(file)}  {path.name}\n".encode()
