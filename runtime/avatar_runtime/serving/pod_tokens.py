"""The tokens that a runtime pod accepts: for control, for reading its state, and for sessions.

In a cluster they are files of the mounted control Secret. They are read at each use, because the
kubelet updates them: a running pod accepts the tokens of a new master key without a restart, and
the previous ones as long as the Secret has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts import labels, secret_files

if TYPE_CHECKING:
    from avatar_runtime.settings import AdminSettings


class PodTokens:
    """Reads the tokens that are accepted now."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        self._folder = settings.token_folder

    @property
    def are_required(self) -> bool:
        """Whether the admin listener needs a token, even on a loopback address."""
        given = self._settings
        return bool(self._folder or given.token or given.state_token)

    @property
    def session_is_required(self) -> bool:
        """Whether a session needs a token."""
        return bool(self._folder or self._settings.session_token)

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
        mounted: tuple[str, ...] = ()
        if self._folder:
            mounted = secret_files.current_and_previous(self._folder, name)
        return (*((given,) if given else ()), *mounted)
