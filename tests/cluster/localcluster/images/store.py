"""The folder of buildah's layers, the base image and the wheels, in the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from localcluster.images import errors, recipes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAMS: Final = ("buildah", "debootstrap")
SUITE: Final = "bookworm"
INCLUDE: Final = ("ca-certificates", "python3", "python3-venv")
BASE_KEY: Final = hashlib.sha256(repr((SUITE, INCLUDE, 2)).encode()).hexdigest()[:16]
"""Raise the number when `_build_base` changes."""
BASE_NAME: Final = f"localhost/python:3.11-slim-bookworm-{BASE_KEY}"
"""The local replacement of the public base image that the Containerfiles name."""
TRIMMED: Final = (
    "var/cache/apt/*", "var/cache/debconf/*-old", "var/lib/apt/lists/*", "var/lib/dpkg/*-old",
    "var/log/*", "usr/share/doc/*/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*",
    "usr/share/python-wheels/*.pyc", "tmp/*",
)  # fmt: skip
"""What the public slim images leave out as well; files of copyrights stay."""
MAX_IMAGES: Final = 120
"""Intermediate images beyond which the store is emptied, because buildah never removes any."""


def check_machine() -> None:
    """Raise `MachineUnfit` if images cannot be built here; the sentence says what is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise errors.MachineUnfit(f"{' and '.join(missing)} are not installed, to build images")
    if os.geteuid() != 0:
        raise errors.MachineUnfit("images are built as root, because debootstrap changes its root")


@dataclass(frozen=True, slots=True)
class Store:
    """Buildah with a storage of its own; one process uses it at a time."""

    folder: Path
    driver: str

    def buildah(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run buildah, and return what it prints on its standard output.

        Raises:
            CommandFailed: buildah ends with an error.
        """
        storage = self.folder / f"storage-{self.driver}"
        run = ("buildah", "--root", storage, "--runroot", storage / "run")
        return execute(*run, "--storage-driver", self.driver, *arguments, cwd=cwd)

    def has_base(self) -> bool:
        names = self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
        return BASE_NAME in names

    def base_digest(self) -> str:
        """Return the id of the base image, which stands for its content."""
        return self.buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", BASE_NAME)

    def ensure_base(self) -> None:
        """Put the base image into the storage; the first time Debian's packages are downloaded."""
        if len(self.buildah("images", "--all", "--quiet").split()) > MAX_IMAGES:
            self.buildah("rmi", "--all", "--force")
        if self.has_base():
            return
        archive = self.folder / f"base-{BASE_KEY}.tar"
        if not archive.exists():
            _build_base(archive)
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", container, archive, "/")
        self.buildah("config", "--cmd", "python3", "--env", "LANG=C.UTF-8", container)
        commit = ("commit", "--rm", "--format", "oci", "--timestamp", str(recipes.EPOCH_S))
        self.buildah(*commit, container, BASE_NAME)

    def ensure_wheels(self, root: Path, lock: str) -> Path:
        """Return the folder with the wheels of a lock; missing ones are downloaded by pip.

        pip reads the index from its own configuration, so that no image ever sees it.
        """
        key = hashlib.sha256((root / lock).read_bytes()).hexdigest()[:16]
        folder = self.folder / "wheels" / f"{Path(lock).stem}-{key}"
        if folder.exists():
            return folder
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        kind = ("--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp")
        options = ("--no-deps", "--require-hashes", "--requirement", root / lock)
        execute(*pip, *kind, *options, "--dest", partial)
        for other in folder.parent.glob(f"{Path(lock).stem}-????????????????"):
            shutil.rmtree(other)
        partial.rename(folder)
        return folder


@contextlib.contextmanager
def opened(environ: Mapping[str, str]) -> Iterator[Store]:
    """Give the store of this user, locked until the end of the block."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ["HOME"]) / ".cache")
    folder = Path(base) / "avatar-service" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in (*folder.glob("build-*"), *folder.glob("base-*/")):
            shutil.rmtree(leftover)
        yield Store(folder, _storage_driver(folder))


def _storage_driver(folder: Path) -> str:
    """Return overlay where the file system can; vfs works everywhere and copies each layer."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = ("buildah", "--root", place, "--runroot", f"{place}/run")
        try:
            execute(*command, "--storage-driver", "overlay", "from", "scratch")
        except errors.CommandFailed:
            return "vfs"
    return "overlay"


def _build_base(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="base-") as place:
        root = Path(place)
        include = f"--include={','.join(INCLUDE)}"
        execute("debootstrap", "--variant=minbase", include, SUITE, root)
        for pattern in TRIMMED:
            for path in root.glob(pattern):
                if path.name == "copyright":
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        (root / "usr/bin/python").symlink_to("python3")
        # As in the public image, pip is there for the build; the Containerfiles remove it.
        (wheel,) = root.glob("usr/share/python-wheels/pip-*.whl")
        zipfile.ZipFile(wheel).extractall(root / "usr/local/lib/python3.11/dist-packages")
        partial = archive.with_suffix(".partial")
        execute("tar", "-C", root, "--numeric-owner", "--sort=name", "-cf", partial, ".")
        partial.rename(archive)


def execute(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end, and return its standard output.

    Raises:
        CommandFailed: it ends with an error; the end of its output is in the message.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()[-25:]
        raise errors.CommandFailed(str(command[0]), done.returncode, "\n".join(lines))
    return done.stdout
