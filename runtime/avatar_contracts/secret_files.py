"""Reads the keys and tokens of mounted Secrets.

They are read at each use, because the kubelet updates the files: a rotation needs no restart.
"""

from __future__ import annotations

from pathlib import Path

from avatar_contracts import labels


def read(path: Path) -> str:
    """Return the text of a file; empty if the file is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def current_and_previous(folder: str, name: str) -> tuple[str, ...]:
    """Return what a rotation keeps of one key: the current one, then the previous one.

    Keys that do not exist are left out. The result is empty if the folder is missing.
    """
    found = (read(Path(folder) / f"{prefix}{name}") for prefix in ("", labels.PREVIOUS_PREFIX))
    return tuple(text for text in found if text)
