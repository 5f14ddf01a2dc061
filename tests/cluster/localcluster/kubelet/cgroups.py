"""The cgroup of a node, in every hierarchy of this machine (cgroup v1) or in the only one (v2)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


def hierarchies() -> tuple[Path, ...]:
    """Return the mount points in which a node has its cgroup."""
    if (ROOT / "cgroup.controllers").exists():
        return (ROOT,)
    return tuple(p for p in sorted(ROOT.iterdir()) if p.is_dir() and not p.is_symlink())


def create(name: str) -> None:
    """Create an empty cgroup; what a killed node left under this name is removed."""
    remove(name)
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir()
    cpuset = ROOT / "cpuset" / name
    if cpuset.exists():  # cgroup v1: a new cpuset has no CPUs
        for file in ("cpuset.cpus", "cpuset.mems"):
            (cpuset / file).write_text((cpuset.parent / file).read_text())


def remove(name: str) -> None:
    """Remove the cgroup and those below it; no process may be left in them."""
    for hierarchy in hierarchies():
        top = hierarchy / name
        below = sorted(top.rglob("*"), key=lambda path: -len(path.parts)) if top.exists() else []
        for folder in (*(path for path in below if path.is_dir()), top):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
