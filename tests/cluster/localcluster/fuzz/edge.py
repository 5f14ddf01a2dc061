"""What stands between a session and its client: the form of the protocol, as the server does it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.protocol.dialects import translation
from avatar_runtime.protocol.dialects.beta import Beta
from avatar_runtime.protocol.dialects.voice_live import VoiceLive
from localcluster.fuzz import forms, official, requests
from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from avatar_runtime.protocol.dialects.translation import Dialect

DIALECTS: Final[tuple[Dialect | None, ...]] = (None, None, None, Beta(), VoiceLive())
_LEFT_OUT: Final = "conversation.item.done"
_KEPT: Final = ("seq", "event_id", "epoch", "delta", "item_id", "response_id", "previous_item_id")
"""Fields that are the same in all forms."""
_GA_PARAMS: Final = (
    *("session.audio.input.format", "session.audio.output.", "session.output_modalities"),
    *("session.audio.input.turn_detection", "session.max_output_tokens"),
)


class Edge:
    """Translates the messages of one client, and checks what the client gets."""

    def __init__(
        self, dialect: Dialect | None, *, is_client_right: bool = True, is_official: bool = True
    ) -> None:
        """`is_client_right` is whether the client sends only values of the official types.

        `is_official` is whether the events of the session have the official form.
        """
        self._dialect = dialect
        self._is_official = is_official
        self._is_client_right = is_client_right
        self._is_azure = isinstance(dialect, VoiceLive)

    def in_form(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a message of the GA form in the form of the client."""
        if self._dialect is None:
            return document
        return forms.beta(document, is_azure=self._is_azure)

    def to_session(self, content: str | bytes) -> str | bytes:
        """Return what the session gets.

        Raises:
            Violation: the translation has changed what it must not.
        """
        if self._dialect is None or isinstance(content, bytes):
            return content
        translated = translation.to_ga(self._dialect, content)
        before, after = requests.parse(content), requests.parse(translated)
        require(requests.identity(before) == requests.identity(after), f"{translated[:300]} is new")
        return translated

    def read(self, text: str, *, official_only: bool) -> None:
        """Check what the client gets for an event of its session.

        Raises:
            Violation: it is not in the form of the client.
        """
        event: dict[str, Any] = json.loads(text)
        kind = event["type"]
        if official_only and not translation.is_official(self._dialect, text):
            require(kind in official.OURS, f"{kind} is official and was left out")
            return
        require(not official_only or self._is_azure or kind not in official.OURS, f"{kind} is ours")
        if self._dialect is None:
            return
        translated = translation.from_ga(self._dialect, text)
        require((translated is None) == (kind == _LEFT_OUT), f"{kind} became {translated}")
        if translated is None:
            return
        found: dict[str, Any] = json.loads(translated)
        if self._is_official:
            is_right = self._is_client_right
            official.check_beta(found["type"], translated, is_client_right=is_right)
        for name in _KEPT:
            require(found.get(name) == event.get(name), f"{name} of {kind} became {translated}")
        if kind == "error" and isinstance(found["error"]["param"], str):
            param = found["error"]["param"]
            require(not param.startswith(_GA_PARAMS), f"{param} is not a field of the client")
