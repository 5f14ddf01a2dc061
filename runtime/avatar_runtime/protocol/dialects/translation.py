"""Chooses the form that a client speaks, and translates the texts of its messages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Protocol

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.dialects import voice_live
from avatar_runtime.protocol.dialects.beta import Beta

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from avatar_runtime.protocol.dialects.beta import Fields

BETA_HEADER: Final = "realtime=v1"
BETA_SUBPROTOCOL: Final = "openai-beta.realtime-v1"
_TYPE: Final = '{"type":"'
"""How each server event starts."""
_OWN_EVENTS: Final = ("warning", "response.video.", "session.avatar.", "session.migrate")
"""The events that OpenAI's interface lacks, by the start of their names."""


class Dialect(Protocol):
    """A form of the protocol; each method returns what it cannot translate unchanged."""

    def to_ga(self, event: Fields) -> Fields:
        """Return a client event in the GA form."""

    def from_ga(self, event: Fields) -> Fields | None:
        """Return a server event in this form, or `None` if this form lacks it."""


def choose(path: str, beta_header: str, subprotocols: Collection[str]) -> Dialect | None:
    """Return the form that a connection asks for; `None` for the GA form.

    `beta_header` is the header `OpenAI-Beta`, empty if it is missing.
    """
    if path == voice_live.PATH:
        return voice_live.VoiceLive()
    words = {word.strip() for word in beta_header.split(",")}
    if BETA_HEADER in words or BETA_SUBPROTOCOL in subprotocols:
        return Beta()
    return None


_BY_NAME: Final[Mapping[str, Callable[[], Dialect]]] = {
    "voice_live": voice_live.VoiceLive,
    "beta": Beta,
}
NAMES: Final = tuple(_BY_NAME)
"""The forms besides the GA form, as the document of a session names them."""


def by_name(name: str | None) -> Dialect | None:
    """Return a form of `NAMES`; `None` for the GA form."""
    return None if name is None else _BY_NAME[name]()


def name_of(dialect: Dialect | None) -> str | None:
    """Return the name of a form; `None` for the GA form."""
    return next((name for name, kind in _BY_NAME.items() if type(dialect) is kind), None)


def to_ga(dialect: Dialect, message: str) -> str:
    """Return a message of the client in the GA form.

    A message that cannot be read is returned as it is: the session reports what is wrong.
    """
    try:
        event = client_events.load(message).document
    except ProtocolError:
        return message
    translated = dialect.to_ga(event)
    # With escapes, a text could grow over the limit of a message.
    return message if translated is event else json.dumps(translated, ensure_ascii=False)


def from_ga(dialect: Dialect, text: str) -> str | None:
    """Return a message of the server in the form of the client, or `None` if there is none."""
    translated = dialect.from_ga(json.loads(text))
    return None if translated is None else json.dumps(translated, separators=(",", ":"))


def is_official(dialect: Dialect | None, text: str) -> bool:
    """Return whether the interface of a client has the event in a message of a session.

    Those of Azure have all of them.
    """
    is_azure = isinstance(dialect, voice_live.VoiceLive)
    return is_azure or not text.startswith(_OWN_EVENTS, len(_TYPE))
