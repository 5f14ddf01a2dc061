"""The settings that the client and the upstream exchange: who waits for which answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from avatar_runtime.protocol.bridge import upstream_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.bridge.requests import Requests
    from avatar_runtime.protocol.session_config import SessionConfig


@dataclass(frozen=True, slots=True)
class _Update:
    """A `session.update` that the upstream has not answered."""

    event_id: str
    clients: tuple[str | None, ...]
    """Ids of the client's updates that it stands for."""
    before: SessionConfig
    """The configuration before it, which a refusal restores."""


class SettingsExchange:
    """The `session.update` events on their way, and the session object of the upstream."""

    def __init__(self, requests: Requests) -> None:
        self.upstream: Mapping[str, object] | None = None
        """The last session object of the upstream; `None` if there is none, or it is too large."""
        self._requests = requests
        self._updates: deque[_Update] = deque()
        self._owed: list[str | None] = []  # updates of the client that wait for a connection

    def greet(self, config: SessionConfig, formats: Mapping[str, object]) -> None:
        """Ask a new connection for all that the session was configured with."""
        session = upstream_session.requested(config, formats)
        event_id = self._requests.send_first("session.update", {"session": session})
        self._updates.append(_Update(event_id, tuple(self._owed), config))
        self._owed.clear()

    def ask(self, changes: Mapping[str, object], before: SessionConfig, client: str | None) -> None:
        """Ask the upstream for a change of the client, which is connected."""
        event_id = self._requests.send("session.update", {"session": changes})
        self._updates.append(_Update(event_id, (client,), before))

    def owe(self, client: str | None) -> None:
        """Answer an update of the client when the next connection is configured."""
        self._owed.append(client)

    def answered(self, session: Mapping[str, object]) -> int:
        """Take the session object of `session.updated`, and return how many answers are due."""
        self.learn(session)
        return len(self._updates.popleft().clients) if self._updates else 0

    def learn(self, session: Mapping[str, object]) -> None:
        """Take the session object of the upstream."""
        self.upstream = session if upstream_session.is_small(session) else None

    def refused(
        self, event_id: object, config: SessionConfig
    ) -> tuple[SessionConfig, str | None] | None:
        """Handle an error of the upstream that names an update.

        Return the configuration that holds again, and the id of the client's event. `None` if the
        error is not about an update.
        """
        for update in self._updates:
            if update.event_id == event_id:
                self._updates.remove(update)
                before = update.before
                restored = replace(
                    config,
                    format=before.format,
                    stored=before.stored,
                    stored_input=before.stored_input,
                    stored_output=before.stored_output,
                )
                return restored, next(iter(update.clients), None)
        return None

    def disconnect(self) -> None:
        """Answer what is open after the next connection."""
        for update in self._updates:
            self._owed += update.clients
        self._updates.clear()
