"""What a session gives to its mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from avatar_runtime.protocol.media import W

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.media import Utterance, VoiceDetector
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.session_config import SessionConfig


@dataclass(frozen=True, slots=True)
class SessionParts(Generic[W]):
    """The shared parts and the calls of one session."""

    suffix: str
    """Common suffix of the session's identifiers."""
    fps: int
    config: SessionConfig
    """The configuration at the start."""
    outbox: Outbox
    conversation: Conversation
    open_utterance: Callable[[AudioFormat], Utterance[W]]
    open_detector: Callable[[AudioFormat], VoiceDetector]
    report: Callable[[str], None]
    """Sends `session.created` or `session.updated` with the session as it is now."""
    end: Callable[[int, str, float], None]
    """Ends the session: close code, reason and the time now."""
