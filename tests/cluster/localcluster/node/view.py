"""Decides how a process gets its volumes at their mount paths.

With `bwrap`, the process has a mount namespace with real mounts. Without it, mount paths in the
arguments and the environment are rewritten as whole path prefixes; a program that builds such a
path itself does not find the volume.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PATH_CHARACTER: Final = r"[\w./~-]"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine at a path inside the container."""

    path: str
    source: Path
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """The command line and the environment of a process."""

    words: tuple[str, ...]
    env: Mapping[str, str]
    folder: str


def keeping(mounts: Sequence[Mount], folders: Sequence[Path]) -> tuple[Mount, ...]:
    """Return the mounts with additional ones for folders that another mount would hide.

    For example, a volume at /tmp must not hide the folder of a cluster below /tmp.
    """
    hidden = [f for f in folders if any(f.is_relative_to(mount.path) for mount in mounts)]
    return (*mounts, *(Mount(str(folder), folder) for folder in hidden))


def rewrite(text: str, mounts: Sequence[Mount]) -> str:
    """Replace each mount path that is a whole path prefix in `text`, the longest first."""
    sources = {mount.path.rstrip("/") or "/": str(mount.source) for mount in mounts}
    sources.pop("/", None)
    if not sources:
        return text
    options = "|".join(re.escape(path) for path in sorted(sources, key=len, reverse=True))
    # One pass, so that inserted paths are not rewritten again.
    pattern = rf"(?<!{PATH_CHARACTER})({options})(?=/|(?!{PATH_CHARACTER}))"
    return re.sub(pattern, lambda match: sources[match[1]], text)


def rewritten(command: Command, mounts: Sequence[Mount]) -> Command:
    """Return the command with local paths instead of mount paths."""
    return replace(
        command,
        words=tuple(rewrite(word, mounts) for word in command.words),
        env={name: rewrite(value, mounts) for name, value in command.env.items()},
        folder=rewrite(command.folder, mounts),
    )


def wrapped(
    command: Command,
    mounts: Sequence[Mount],
    bwrap: str,
    listing: Callable[[str], Sequence[str]] = os.listdir,
    exists: Callable[[str], bool] = os.path.exists,
) -> Command:
    """Return the command in its own mount namespace.

    The host file system stays visible. If a folder lacks a mount point, an empty folder with its
    entries bound into it replaces it, so that nothing is created on the host.
    """
    placed = [replace(mount, path=os.path.realpath(mount.path)) for mount in mounts]
    options: list[str] = []
    for folder in sorted({"/", *(_deepest(mount.path, exists) for mount in placed)}, key=_depth):
        options += ["--tmpfs", folder]
        for name in sorted(listing(folder)):
            entry = os.path.join(folder, name)
            options += ["--dev-bind-try", entry, entry]
    for mount in sorted(placed, key=lambda mount: _depth(mount.path)):
        options += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.path]
    words = (bwrap, "--die-with-parent", *options, "--chdir", command.folder, "--", *command.words)
    return replace(command, words=words, folder="/")


def _deepest(path: str, exists: Callable[[str], bool]) -> str:
    """Return the deepest existing folder of `path`, or the root."""
    if exists(path):
        return "/"
    while not exists(path):
        path = os.path.dirname(path)
    return path


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")
