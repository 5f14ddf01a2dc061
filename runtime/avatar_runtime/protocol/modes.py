"""What a session asks of its mode: who speaks, and what the client's events do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from avatar_runtime.protocol.media import W

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.client_events import ClientEvent
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.speech import Speech
    from avatar_runtime.protocol.strict_fields import StrictFields


class Mode(Protocol[W]):
    """One service mode: docs/conversation.md.

    It owns the `Speech` of its session, and is told of all that it does not decide.
    """

    @property
    def announces_itself(self) -> bool:
        """Whether the mode reports `session.created` later, when it knows the session."""
        ...

    @property
    def can_repeat(self) -> bool:
        """Whether the same messages of the client always lead to the same events."""
        ...

    @property
    def forwards(self) -> bool:
        """Whether the settings that the session does not serve go to an upstream."""
        ...

    @property
    def speech(self) -> Speech[W]:
        """What the avatar says."""
        ...

    @property
    def can_receive(self) -> bool:
        """Whether the mode can take the next message of the client."""
        ...

    @property
    def has_open_audio(self) -> bool:
        """Whether audio of the client waits for its end, in the format in which it began.

        What `speech` has counts as an active response instead.
        """
        ...

    def describe(self, session: dict[str, object]) -> dict[str, object]:
        """Return the session object for the client, from the one of the configuration."""
        ...

    def configure(self, config: SessionConfig, now: float) -> None:
        """Apply a configuration that the client has changed."""
        ...

    def forward(self, session: Mapping[str, object], event_id: str | None) -> bool:
        """Take the object of a `session.update` whose configuration was applied.

        Return whether the mode reports `session.updated` itself, later.
        """
        ...

    def handle(
        self, event: ClientEvent, fields: StrictFields, event_id: str | None, now: float
    ) -> None:
        """Handle an event that is not about the session itself; `fields` is the whole event.

        Raises:
            ProtocolError: the event cannot be accepted; nothing changes.
        """
        ...

    def listen(self, now: float) -> bool:
        """Handle the next part of the audio that was appended, and return whether more waits.

        Raises:
            ProtocolError: the audio cannot be handled.
        """
        ...

    def check_movable(self) -> None:
        """Check that the session can move to another pod.

        Raises:
            ProtocolError: it cannot as it is now.
        """
        ...

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values, for another pod.

        Raises:
            ProtocolError: the session cannot move as it is now.
        """
        ...

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        ...
