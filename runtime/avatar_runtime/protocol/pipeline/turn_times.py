"""How long the legs of a turn take, from the end of the user's turn to the first sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from avatar_runtime.protocol.pipeline.legs import CHAT, SPEECH, TRANSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable

UPSTREAM: Final = "upstream"
Leg = Literal["transcription", "chat", "speech", "upstream"]
"""The endpoints one after the other, and all of them together."""


class TurnTimes:
    """The legs of one turn. Each is reported when it ends, once.

    A leg starts where the one before it ends, so that the legs add up to the time of the turn. A
    turn without speech of the user has no leg `transcription`, one without a chat endpoint no leg
    `chat`.
    """

    def __init__(
        self, report: Callable[[Leg, float], None], now: float, *, has_speech: bool
    ) -> None:
        """`report` takes a leg and its seconds; `has_speech` is whether text is still unknown."""
        self._report = report
        self._opened_at = self._since = now
        self._has_speech = has_speech
        self._has_chat = False
        self._is_requested = False
        self._has_sound = False

    def begin(self, now: float, *, has_chat: bool) -> None:
        """Record that all text of the user is known; `has_chat` is whether it is answered."""
        self._has_chat = has_chat
        if self._has_speech:
            self._end(TRANSCRIPTION, now)
        self._since = now

    def request_sound(self, now: float) -> None:
        """Record that the first sentence is complete, and its sound is asked for."""
        if self._is_requested:
            return
        self._is_requested = True
        if self._has_chat:
            self._end(CHAT, now)
        self._since = now

    def hear_sound(self, now: float) -> None:
        """Record that sound has arrived."""
        if self._has_sound:
            return
        self._has_sound = True
        self._end(SPEECH, now)
        self._report(UPSTREAM, now - self._opened_at)

    def _end(self, leg: Leg, now: float) -> None:
        self._report(leg, now - self._since)
