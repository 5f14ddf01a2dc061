"""What the mode asks of the endpoints, and what it is told about them. There is no I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat

SPEECH: Final = "speech"
CHAT: Final = "chat"
TRANSCRIPTION: Final = "transcription"


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """The sound of one sentence, in the format of the session."""

    id: int
    text: str
    audio: AudioFormat
    voice: str
    """Empty: that of the settings."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The answer to a conversation."""

    id: int
    messages: tuple[Mapping[str, str], ...]
    """`role` and `content` of each message, oldest first."""


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """The text of one utterance of the caller."""

    id: int
    sound: bytes
    audio: AudioFormat


LegRequest = SpeechRequest | ChatRequest | TranscriptionRequest


@dataclass(frozen=True, slots=True)
class LegFailure:
    """Why a request has failed; nothing in it is secret."""

    leg: str
    message: str
    """One sentence that names the leg, and the status if there is one."""
    status: int | None
    """HTTP status, if that is the reason."""

    @property
    def code(self) -> str:
        """The code of the error that the client gets."""
        return f"{self.leg}_failed"
