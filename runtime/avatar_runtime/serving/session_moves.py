"""The document of a live session, and the session of a document."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError, Rejection, quoted
from avatar_runtime.protocol import config_document, replay, session_document
from avatar_runtime.protocol.dialects import translation
from avatar_runtime.protocol.resume import ResumeTokens
from avatar_runtime.protocol.session_document import Heading
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.session_clock import SessionClock

if TYPE_CHECKING:
    from avatar_runtime.protocol.strict_fields import StrictFields
    from avatar_runtime.serving.runtime import Runtime

MAX_MOVED: Final = 1024
"""Sessions that have left, at most; a client of an older one is refused."""


def export(live: LiveSession, most_replayed: int = replay.MAX_BYTES) -> dict[str, object]:
    """Return the document of a session, with at most `most_replayed` bytes of messages sent before.

    Raises:
        ProtocolError: the session cannot move as it is now.
    """
    session, runtime = live.session, live.runtime
    read_only = session.read_only
    heading = Heading(
        session.id,
        live.former_ids,
        session.suffix,
        runtime.settings.identity.service,
        read_only.model,
        read_only.expires_at,
        read_only.fps,
        live.remaining_s,
        translation.name_of(live.dialect),
    )
    return {
        **session_document.describe(heading, session, live.clock()),
        "resume": live.tokens.export(),
        "replay": live.replay.export(most_replayed),
    }


def restore(fields: StrictFields, heading: Heading, runtime: Runtime) -> LiveSession:
    """Return the session of a document, which waits for its client.

    Raises:
        ProtocolError: a field is missing or wrong, or this pod cannot continue the session.
    """
    _check(fields, heading, runtime)
    config = config_document.read(fields.nested("config"), runtime.avatars)
    clock = SessionClock(runtime.clock)
    clock.stop()
    session = runtime.continue_session(config, heading)
    session.restore(fields.nested("state"), clock())
    tokens = ResumeTokens()
    tokens.restore(fields.nested("resume"))
    dialect = translation.by_name(heading.dialect)
    live = LiveSession(session, runtime, clock, tokens, dialect)
    live.former_ids = heading.known_ids
    live.remaining_s = min(heading.remaining_s, runtime.settings.sessions.max_duration_s)
    live.replay.restore(fields.nested("replay"))
    return live


def _check(fields: StrictFields, heading: Heading, runtime: Runtime) -> None:
    service, fps = runtime.settings.identity.service, runtime.settings.sessions.fps
    if heading.service != service:
        raise fields.error("model_not_found", "service", f"this pod serves {service}", service)
    if heading.fps != fps:
        raise fields.invalid("fps", f"this pod generates {fps} frames a second", fps)
    if heading.dialect not in (None, *translation.NAMES):
        raise fields.invalid("dialect", "is not served", list(translation.NAMES))


@dataclass(frozen=True, slots=True)
class MovedSession:
    """A session that has left this pod."""

    tokens: ResumeTokens
    destination: str
    """The pod that has it, as the request has named it; empty if it did not."""
    until: float
    """When its client can no longer come back, monotonic seconds."""


class MovedSessions:
    """The sessions that have left this pod, until their clients have followed them."""

    def __init__(self) -> None:
        self._moved: OrderedDict[str, MovedSession] = OrderedDict()

    def add(self, ids: tuple[str, ...], moved: MovedSession) -> None:
        """Remember a session by all the ids that its client may use."""
        for session_id in ids:
            self._moved[session_id] = moved
        while len(self._moved) > MAX_MOVED:
            self._moved.popitem(last=False)

    def find(self, session_id: str, now: float) -> MovedSession | None:
        """Return a session that has left, `None` if there is none."""
        moved = self._moved.get(session_id)
        return None if moved is None or moved.until <= now else moved

    def forget(self, ids: tuple[str, ...]) -> None:
        """Forget a session: it is back."""
        for session_id in ids:
            self._moved.pop(session_id, None)


def not_found(session_id: str) -> Rejection:
    """Return the answer for a session that this pod does not have."""
    message = f"session is {quoted(session_id)}; this pod has no such session"
    return Rejection(404, 4404, "session_not_found", message, param="session", value=session_id)


def has_moved(destination: str) -> Rejection:
    """Return the answer for a session that has left this pod."""
    message = "the session has left this pod"
    return Rejection(410, 1012, "session_moved", message, param="session", value=destination)


def not_asked() -> Rejection:
    """Return the answer for a session that this pod keeps for now."""
    message = "the session was not asked to move: its pod does not drain, or has time left"
    return Rejection(409, 1012, "session_not_asked", message, param="only_if_asked", value=True)


def not_movable(error: ProtocolError) -> Rejection:
    """Return the answer for a session that cannot move as it is now."""
    return Rejection(
        409,
        1012,
        error.code,
        error.message,
        param=error.param,
        value=error.value,
        limit=error.limit,
    )
