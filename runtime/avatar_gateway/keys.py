"""The gateway keys: the current one, and the previous one during a rotation.

In a cluster they are files of a mounted Secret. They are read at each use, because the kubelet
updates them: a rotation needs no restart of the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from avatar_contracts import labels

_FILES: Final = (
    labels.GATEWAY_KEY_FILE,
    labels.PREVIOUS_PREFIX + labels.GATEWAY_KEY_FILE,
)


@dataclass(frozen=True, slots=True)
class GatewayKeys:
    """Where the gateway keys are."""

    folder: str
    """The folder with the files; empty if the key was given as text."""
    text: str = field(repr=False)

    def read(self) -> tuple[str, ...]:
        """Return the keys, the current one first; none if the folder has no key now."""
        if not self.folder:
            return (self.text,) if self.text else ()
        found = (_read(Path(self.folder) / name) for name in _FILES)
        return tuple(key for key in found if key)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
