"""The tokens that a runtime pod accepts: for control, for reading its state, and for sessions.

In a cluster they are files of the mounted control Secret. They are read at each use, because the
kubelet updates them: a running pod accepts the tokens of a new master key without a restart, and
the previous ones as long as the Secret has them.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_contracts import labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.settings import AdminSettings


class PodTokens:
    """Reads the tokens that are accepted now."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        self._folder = Path(settings.token_folder) if settings.token_folder else None

    @property
    def are_required(self) -> bool:
        """Whether the admin listener needs a token, even on a loopback address."""
        given = self._settings
        return self._folder is not None or bool(given.token or given.state_token)

    @property
    def session_is_required(self) -> bool:
        """Whether a session needs a token."""
        return self._folder is not None or bool(self._settings.session_token)

    def control(self) -> tuple[str, ...]:
        """Return the tokens that may control the pod, the current one first."""
        return self._accepted(labels.TOKEN_FILE, self._settings.token)

    def state(self) -> tuple[str, ...]:
        """Return the tokens that may only read the state and the metrics."""
        return self._accepted(labels.STATE_TOKEN_FILE, self._settings.state_token)

    def session(self) -> tuple[str, ...]:
        """Return the tokens that may open sessions."""
        return self._accepted(labels.SESSION_TOKEN_FILE, self._settings.session_token)

    def _accepted(self, name: str, given: str) -> tuple[str, ...]:
        found = [given]
        if self._folder is not None:
            found += [_read(self._folder / f"{prefix}{name}") for prefix in _PREFIXES]
        return tuple(token for token in found if token)


_PREFIXES = ("", labels.PREVIOUS_PREFIX)


def matches(token: str, accepted: Sequence[str]) -> bool:
    """Return whether a token is one of the accepted ones, without a hint in the time taken."""
    actual = token.encode("utf-8", "replace")
    equal = [hmac.compare_digest(actual, each.encode()) for each in accepted if each]
    return any(equal)


def _read(path: Path) -> str:
    """Return the token in a file; empty if the file is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
