"""The folder beside the output where a preparation keeps finished chunks, so that it can go on.

`.NAME-work` has `key.json` and the chunks of each stage. A chunk is complete or absent: it is
written under another name and renamed. A run with other inputs removes the chunks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime import errors
from avatar_runtime.avatars import work_folder
from avatar_runtime.preparation import tensor_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_KEY: Final = "key.json"


class Staging:
    """The chunks of one preparation. `opened` makes one."""

    def __init__(self, folder: Path, resumed: bool, restarted: bool) -> None:
        self.folder = folder
        self.resumed = resumed
        """Whether an earlier run with the same inputs left chunks."""
        self.restarted = restarted
        """Whether chunks of a run with other inputs were removed."""

    def load(self, stage: str, number: int) -> dict[str, NDArray[Any]] | None:
        """Return the tensors of a chunk, mapped from the disk, or `None` if it is not finished."""
        path = self._chunk(stage, number)
        if not path.is_file():
            return None
        try:
            return tensor_stream.mapped(path)
        except errors.AssetError:
            path.unlink()  # cut by a failure of the machine: made again
            return None

    def save(self, stage: str, number: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        tensor_stream.write(self._chunk(stage, number), tensor_stream.whole(tensors))

    def load_note(self, stage: str) -> dict[str, Any] | None:
        """Return what `save_note` stored, or `None`."""
        try:
            document = json.loads((self.folder / f"{stage}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def save_note(self, stage: str, document: Mapping[str, Any]) -> None:
        """Store facts about a finished stage."""
        _write_text(self.folder / f"{stage}.json", json.dumps(document))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _chunk(self, stage: str, number: int) -> Path:
        return self.folder / f"{stage}-{number:06d}.safetensors"


@contextmanager
def opened(out: Path, key: str, *, restart: bool = False) -> Iterator[Staging]:
    """Open the staging folder of `out` for one process; `key` stands for all inputs.

    Raises:
        AssetError: another process prepares the same avatar, or the folder cannot be made.
        OSError: the disk is full.
    """
    folder = work_folder.path_of(out)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        fault = f"the folder {folder.name} cannot be made in it: {error.strerror}"
        raise errors.AssetError(str(folder.parent), fault) from error
    with (folder / work_folder.LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fault = "another process prepares this avatar now"
            raise errors.AssetError(str(out), fault) from error
        known = _read_key(folder)
        resumed = known == key and not restart
        if not resumed:
            for path in folder.iterdir():
                if path.name != work_folder.LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _write_text(folder / _KEY, json.dumps({"key": key}))
        yield Staging(folder, resumed, known is not None and not resumed)


def _read_key(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / _KEY).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
