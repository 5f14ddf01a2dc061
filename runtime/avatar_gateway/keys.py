"""The keys of the gateway: the gateway keys, and the API keys of callers.

In a cluster they are files of mounted Secrets. They are read at each use, because the kubelet
updates them: a rotation needs no restart of the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from avatar_contracts import labels, secret_files

API_KEY_FILE: Final = "api-key"
_ANOTHER: Final = f"{API_KEY_FILE}-"
MIN_KEY: Final = 16
"""Shorter keys are not used."""


@dataclass(frozen=True, slots=True)
class APIKeys:
    """Where the API keys are: the file `api-key`, and the files `api-key-NAME`."""

    folder: str
    """The folder with the files; empty if the key was given as text."""
    text: str = field(repr=False)

    def read(self) -> tuple[str, ...]:
        """Return the accepted keys. The first one, which is `api-key`, signs client secrets."""
        if not self.folder:
            return (self.text,) if self.text else ()
        try:
            found = sorted(Path(self.folder).glob(f"{API_KEY_FILE}*"))
        except OSError:
            return ()
        names = (path for path in found if path.name == API_KEY_FILE or _ANOTHER in path.name)
        return tuple(key for key in map(secret_files.read, names) if len(key) >= MIN_KEY)


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
        return secret_files.current_and_previous(self.folder, labels.GATEWAY_KEY_FILE)
