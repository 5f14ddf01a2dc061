"""The keys of the gateway: the gateway keys, and the API keys of callers.

In a cluster they are files of mounted Secrets. They are read again when they change, because
the kubelet updates them: a rotation needs no restart of the gateway.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels, secret_files

if TYPE_CHECKING:
    from collections.abc import Callable

API_KEY_FILE: Final = "api-key"
_ANOTHER: Final = f"{API_KEY_FILE}-"
MIN_KEY: Final = 16
"""Shorter keys are not used."""
KEEP_S: Final = 1.0
"""How long a change that cannot be seen is missed: the same size within a tick of the clock."""


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


class KeyCache:
    """Reads keys again when their folder has changed, and at least every `KEEP_S`.

    A request needs the keys several times, and to read them takes ten times as long as to look.
    """

    def __init__(
        self, folder: str, read: Callable[[], tuple[str, ...]], clock: Callable[[], float]
    ) -> None:
        """`clock` returns seconds on a monotonic clock."""
        self._folder = folder
        self._read = read
        self._clock = clock
        self._keys: tuple[str, ...] = ()
        self._seen: object = None
        self._until = float("-inf")

    def __call__(self) -> tuple[str, ...]:
        """Return the keys; none of those that could not be read before is kept."""
        now, found = self._clock(), self._look()
        if now >= self._until or not self._keys or found != self._seen:
            self._keys, self._seen, self._until = self._read(), found, now + KEEP_S
        return self._keys

    def _look(self) -> object:
        """Return what changes with the files: the kubelet replaces links, others write in place."""
        if not self._folder:
            return None
        try:
            with os.scandir(self._folder) as entries:
                stats = [(entry.name, entry.stat()) for entry in entries]
        except OSError:
            return None
        return sorted((name, each.st_ino, each.st_mtime_ns, each.st_size) for name, each in stats)


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
