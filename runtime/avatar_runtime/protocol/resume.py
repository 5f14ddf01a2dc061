"""How a client continues its session on a new connection: docs/wire-protocol.md, "Resume"."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.event_keys import MAX_KEYS
from avatar_runtime.protocol import client_events, document_fields
from avatar_runtime.protocol.document_fields import Count, List, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.strict_fields import StrictFields

_BYTES: Final = 32
_KEY_DIGITS: Final = 8
_KEYS: Final = re.compile(r"([0-9a-f]{8})*")
_HASHES: Final = List(Text(hashlib.sha256().digest_size * 2), 2)
RECEIVED: Final[Table] = {"messages": Count(), "samples": Count(), "_split_bytes": Count(0, 1)}
"""What a session exports of `Received`."""


@dataclass(frozen=True, slots=True)
class ClientPosition:
    """What a client has of its session: more than the last snapshot of a pod that is lost."""

    events: int
    """Numbered messages that it has received, without those of the kinds in `UNCOUNTED`."""
    last_events: tuple[str, ...]
    """The keys of the last of them, at most `MAX_KEYS`."""
    messages: int
    """Messages that it has sent."""
    response_id: str | None = None
    """The response that was created last."""
    frames: int = 0
    """Frames of this response that it has received."""
    dropped: int = 0
    """Frames of this response that were reported as dropped."""
    audio_bytes: int = 0
    """Size of the sound of this response that it has received, decoded."""


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """`session.resume`: the first message of a connection that continues a session."""

    token: str
    last_seq: int
    """The client has all messages up to this number."""
    position: ClientPosition | None = None
    """What the client has of a session whose pod is lost; `None` if it does not say."""


def parse(message: str | bytes) -> ResumeRequest:
    """Return the first message of a connection with `?resume=`.

    Raises:
        ProtocolError: it is another one, or a field is missing or wrong.
    """
    if isinstance(message, bytes):
        raise client_events.binary_not_enabled(len(message))
    fields = client_events.load(message)
    if fields.text("type") != "session.resume":
        raise fields.invalid("type", "the first message must be session.resume")
    last_seq = fields.integer("last_seq", 0, client_events.MAX_SEQ)
    position = _position(fields.nested("received"), last_seq) if "received" in fields else None
    return ResumeRequest(fields.text("token"), last_seq, position)


def _position(fields: StrictFields, last_seq: int) -> ClientPosition:
    response_id = None if fields.value("response_id") is None else fields.text("response_id")
    highest = client_events.MAX_SEQ
    return ClientPosition(
        events=fields.integer("events", 0, last_seq),
        last_events=_keys(fields, "last_events"),
        messages=fields.integer("messages", 0, highest),
        response_id=response_id,
        frames=fields.integer("frames", 0, last_seq),
        dropped=fields.integer("dropped", 0, highest),
        audio_bytes=fields.integer("audio_bytes", 0, highest),
    )


def _keys(fields: StrictFields, name: str) -> tuple[str, ...]:
    text = fields.text(name)
    if len(text) > MAX_KEYS * _KEY_DIGITS or not _KEYS.fullmatch(text):
        expected = f"must be at most {MAX_KEYS} times {_KEY_DIGITS} hexadecimal digits"
        raise fields.invalid(name, expected, MAX_KEYS)
    return tuple(text[at : at + _KEY_DIGITS] for at in range(0, len(text), _KEY_DIGITS))


@dataclass(frozen=True, slots=True)
class Resume:
    """What a client needs to continue the session."""

    token: str
    ttl_ms: int
    """How long the session waits for its client, milliseconds."""

    def describe(self) -> dict[str, object]:
        """Return the object `resume` of the wire protocol."""
        return {"token": self.token, "ttl_ms": self.ttl_ms}


@dataclass(slots=True)
class Received:
    """What a client has sent in a session; it sends again what comes after it."""

    messages: int = 0
    """All messages, also those that were rejected."""
    samples: int = 0
    """Samples of all audio that was read, each in the format of its time; also of audio that a full
    buffer or a limit refused."""
    _split_bytes: int = 0
    """Of a sample whose rest is in the next append."""

    def add_audio(self, size: int, bytes_per_sample: int) -> None:
        """Count the samples of an append; `size` is in bytes."""
        size += self._split_bytes
        self.samples += size // bytes_per_sample
        self._split_bytes = size % bytes_per_sample


def _new_token() -> str:
    return f"resume_{secrets.token_urlsafe(_BYTES)}"


class ResumeTokens:
    """The tokens of one session. Only their hashes are kept.

    A token is random, so that a fast hash is enough: SHA-256.
    """

    def __init__(self, new_token: Callable[[], str] = _new_token) -> None:
        self._new_token = new_token
        self._hashes: list[bytes] = []  # the newest one first, then the one that it replaces

    def issue(self, used: str | None = None) -> str:
        """Return the next token.

        `used` is the one with which the client has asked for it. It stays valid until `confirm`,
        however often the client asks: it may not get any of the answers.
        """
        token = self._new_token()
        self._hashes = [_hash(token)] if used is None else [_hash(token), _hash(used)]
        return token

    def confirm(self) -> None:
        """Forget the token that the newest one replaces: the client has the newest one."""
        del self._hashes[1:]

    def accepts(self, token: str) -> bool:
        """Return whether a token is valid."""
        found = [hmac.compare_digest(_hash(token), known) for known in self._hashes]
        return any(found)

    def export(self) -> dict[str, object]:
        """Return the hashes of the valid tokens as plain values."""
        return {"hashes": [known.hex() for known in self._hashes]}

    def restore(self, fields: StrictFields) -> None:
        """Accept the tokens that another session has issued.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        size = hashlib.sha256().digest_size
        hashes = [_bytes_of_hex(each) for each in _HASHES.read(fields, "hashes", 0.0)]
        document_fields.check(
            all(len(each) == size for each in hashes), fields, "hashes", "must be SHA-256 in hex"
        )
        self._hashes = hashes


def _bytes_of_hex(text: str) -> bytes:
    """Return the bytes of hexadecimal digits, none if they are something else."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
