"""Environments of other people's clients: locked, made on demand, and kept in the user's cache.

Each client has a lock of its own: their dependencies contradict each other's and the project's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from localcluster.controlplane import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE: Final = Path(__file__).parent
NODE_PROJECT: Final = HERE / "node"
NODE: Final = "node"
"""The environment whose Python package contains Node.js and npm."""
_LIMIT_S: Final = 900
UNREACHABLE: Final = "this machine reaches no registry of packages"
_NO_REGISTRY: Final = re.compile(
    r"error sending request|dns error|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT"
)
"""What uv and npm say if there is no connection; a package that is missing is another error."""


def python(name: str) -> Path:
    """Return the Python of a client's environment; it is made if it is missing.

    Raises:
        CalledProcessError: a package cannot be installed.
    """
    lock = HERE / "locks" / f"{name}.txt"
    folder = _folder(name, [lock])
    with _being_made(folder) as is_missing:
        if is_missing:
            uv = str(Path(sys.executable).with_name("uv"))
            _run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)])
            into = ["--python", str(folder / "bin/python"), "--require-hashes", str(lock)]
            _run([uv, "pip", "sync", "-q", *into])
    return folder / "bin/python"


def node() -> tuple[Path, Path]:
    """Return Node.js and a folder in which it finds the locked packages.

    Raises:
        CalledProcessError: a package cannot be installed.
    """
    programs = python(NODE).parent
    files = [NODE_PROJECT / "package.json", NODE_PROJECT / "package-lock.json"]
    folder = _folder("node-packages", files)
    with _being_made(folder) as is_missing:
        if is_missing:
            folder.mkdir(exist_ok=True)
            for file in files:
                shutil.copy(file, folder)
            environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
            command = [str(programs / "npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            _run(command, cwd=folder, environment=environment)
    return programs / "node", folder


def _folder(name: str, locks: Sequence[Path]) -> Path:
    digest = hashlib.sha256(sys.version.encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    root = build.cache_root(os.environ).with_name("clients")
    root.mkdir(parents=True, exist_ok=True)
    return root / f"{name}-{digest.hexdigest()[:16]}"


@contextmanager
def _being_made(folder: Path) -> Iterator[bool]:
    """Give whether a folder is missing; only one process makes it, and none uses half of one."""
    complete = folder.with_name(f"{folder.name}.complete")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_missing = not complete.exists()
        if is_missing:
            shutil.rmtree(folder, ignore_errors=True)
        yield is_missing
        complete.touch()


def _run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if done.returncode:
        if _NO_REGISTRY.search(done.stderr):
            pytest.skip(f"{UNREACHABLE}: {done.stderr.strip()[-200:]}")
        error = subprocess.CalledProcessError(done.returncode, list(command))
        error.add_note(done.stderr[-2000:])
        raise error
