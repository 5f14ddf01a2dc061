"""A cache of downloaded models that the pods of a node share.

One process at a time verifies and downloads a model; the others wait and find it complete. A file
appears in its place by a rename after its SHA-256 was checked, so that a reader never sees half of
one. Every start hashes the files: a file that a disk or another pod has changed is downloaded
again. The models that were not used for the longest time make room for others, unless a process
uses them (`model_lock`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin

from avatar_runtime import errors, model_lock
from avatar_runtime.tools import download, model_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

WAIT_S: Final = 3600.0
"""How long a pod waits for another one that downloads the same model."""
POLL_S: Final = 0.5
UNUSED_S: Final = 1200.0
"""A model that was used later is not removed: its pod may not have locked it yet."""
RESERVE_BYTES: Final = 64 << 20
"""Left free on the disk of the node."""
MIB: Final = 1 << 20

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """The model to have in the cache."""

    url: str
    """URL of the manifest; the files are relative to it."""
    sha256: str
    """SHA-256 of the manifest."""
    hosts: tuple[str, ...]
    max_bytes: int
    """What all models in the cache may take together."""
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What was done for a model."""

    files: int
    downloaded_bytes: int
    cached_bytes: int
    """Size of the files that were there already."""
    waited_s: float
    seconds: float
    removed: tuple[str, ...]
    """SHA-256 of the manifests of the models that made room."""


class ModelCache:
    """A cache in one folder, for one download."""

    def __init__(
        self,
        root: Path,
        request: Request,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._request = request
        self._clock = clock
        self._sleep = sleep
        self._entry = root / request.sha256
        self._files = self._entry / "files"
        self._parts = self._entry / "parts"
        self._removed: list[str] = []

    def ensure(self) -> Result:
        """Verify the model, and download what is missing.

        Raises:
            FetchError: the URL is not allowed, or a file is another one; permanent.
            FetchFailed: the server did not deliver; another attempt may succeed.
            CacheError: there is no space, or the folder cannot be written.
        """
        began = self._clock()
        try:
            with self._locked():
                locked = self._clock()
                received, kept, count = self._complete()
                _touch(self._entry / "used", self._clock())
                shutil.rmtree(self._parts, ignore_errors=True)
        except PermissionError as error:
            fault = f"user {os.getuid()} may not write to it ({error.filename})"
            raise errors.CacheError(str(self._root), fault) from error
        ended = self._clock()
        return Result(count, received, kept, locked - began, ended - began, tuple(self._removed))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = self._clock() + WAIT_S
        descriptor = self._lock(deadline)
        try:
            # Another process may have removed the folder before this one had its lock.
            while not self._is_current(descriptor):
                os.close(descriptor)
                descriptor = self._lock(deadline)
            self._parts.mkdir(exist_ok=True)  # the one that had the lock has removed it
            yield
        finally:
            os.close(descriptor)

    def _lock(self, deadline: float) -> int:
        """Return the descriptor of the locked file of this model."""
        for folder in (self._files, self._parts):
            folder.mkdir(parents=True, exist_ok=True)
        (self._files / model_lock.LOCK).touch()
        _touch(self._entry / "used", self._clock())
        descriptor = os.open(self._entry / "download", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        waits = False
        while not model_lock.try_lock(descriptor, fcntl.LOCK_EX):
            if not waits:
                _log.info("another pod downloads the model, waiting model=%s", self._entry.name)
                waits = True
            if self._clock() >= deadline:
                os.close(descriptor)
                fault = f"another pod has downloaded {self._entry.name} for {WAIT_S:.0f} s"
                raise errors.CacheError(str(self._root), fault)
            self._sleep(POLL_S)
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._entry / "download"))
        except FileNotFoundError:
            return False

    def _complete(self) -> tuple[int, int, int]:
        """Return the bytes that were received, those that were there, and the number of files."""
        request = self._request
        name = request.url.rpartition("/")[2]
        limit = model_manifest.MAX_BYTES
        received = self._file(request.url, name, request.sha256, limit)
        stored = (self._files / name).read_bytes()
        manifest = model_manifest.parse(request.url, stored)
        kept = 0
        wanted = set(manifest.values())
        for part in self._parts.iterdir():
            if part.name not in wanted:
                part.unlink()
        for path, digest in manifest.items():
            url = urljoin(request.url, quote(path))
            got = self._file(url, path, digest, request.max_bytes)
            received += got
            kept += 0 if got else (self._files / path).stat().st_size
        return received, kept, len(manifest)

    def _file(self, url: str, path: str, digest: str, max_bytes: int) -> int:
        """Return how many bytes were received for a file; 0 if the right one was there."""
        target, part = self._files / path, self._parts / digest
        if target.is_file() and not target.is_symlink():
            if download.sha256(target) == digest:
                return 0
            _log.warning("file of the cache is damaged, downloading it again path=%s", path)
            target.unlink()
        request = self._request
        source = download.Source(url, digest, request.hosts, max_bytes, request.authorization)
        target.parent.mkdir(parents=True, exist_ok=True)
        received = download.download(source, part, self._make_room, self._sleep)
        part.chmod(0o644)
        os.replace(part, target)
        _log.info("downloaded path=%s bytes=%d", path, received)
        return received

    def _make_room(self, coming: int) -> None:
        """Remove models until `coming` bytes fit.

        Raises:
            CacheError: they do not fit.
        """
        limit = self._request.max_bytes
        sizes = {entry: _size(entry) for entry in self._root.iterdir() if _is_entry(entry)}
        used = sum(sizes.values())
        free = shutil.disk_usage(self._root).free - RESERVE_BYTES
        others = sorted((each for each in sizes if each != self._entry), key=_used_at)
        for other in others:
            if used + coming <= limit and coming <= free:
                return
            if _remove(other, self._clock() - UNUSED_S):
                self._removed.append(other.name)
                _log.info("removed model=%s bytes=%d", other.name, sizes[other])
                used, free = used - sizes[other], free + sizes[other]
        if used + coming > limit:
            fault = (
                f"{_mib(coming)} more do not fit: {_mib(used)} of {_mib(limit)} are in use by "
                f"models that cannot be removed; raise modelCache.maxMiB of the chart"
            )
            raise errors.CacheError(str(self._root), fault)
        if coming > free:
            fault = f"the disk is full: {_mib(coming)} more are needed, {_mib(free)} are free"
            raise errors.CacheError(str(self._root), fault)


def summary(result: Result) -> Mapping[str, object]:
    """Return a result as JSON data."""
    return {
        "files": result.files,
        "downloaded_bytes": result.downloaded_bytes,
        "cached_bytes": result.cached_bytes,
        "waited_s": round(result.waited_s, 3),
        "seconds": round(result.seconds, 3),
        "removed": list(result.removed),
    }


def _remove(entry: Path, before: float) -> bool:
    """Remove a model unless a process uses or downloads it, or has used it after `before`."""
    if _used_at(entry) > before:
        return False
    with contextlib.ExitStack() as held:
        for name in ("download", f"files/{model_lock.LOCK}"):
            try:
                descriptor = os.open(entry / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # it was never complete
            held.callback(os.close, descriptor)
            if not model_lock.try_lock(descriptor, fcntl.LOCK_EX):
                return False
        # What others see is gone at once, also if the rest is removed only in part.
        doomed = entry.with_name(f".removed-{entry.name}")
        entry.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return True


def _is_entry(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may move it
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _used_at(entry: Path) -> float:
    try:
        return (entry / "used").stat().st_mtime
    except OSError:
        return 0.0


def _touch(path: Path, now: float) -> None:
    path.touch()
    os.utime(path, (now, now))


def _mib(size: int) -> str:
    return f"{max(0, size) / MIB:.0f} MiB"
