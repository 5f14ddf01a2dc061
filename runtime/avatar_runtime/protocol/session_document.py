"""A session as one document, with which another pod continues it.

The document is JSON of plain values. It has all that the client or the engine could notice: the
configuration, the counters, the conversation, the sound that was not spoken, the messages that
were not sent, and those that the client may ask for again. It does not have frames on their way,
which are generated again, and no state of an encoder, which starts with a keyframe.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from avatar_contracts import answer_limits
from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import config_document, document_fields
from avatar_runtime.protocol.document_fields import Count, List, Maybe, Number, Table, Text
from avatar_runtime.protocol.strict_fields import StrictFields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.media import W
    from avatar_runtime.protocol.session import Session

SCHEMA: Final = 1
"""Version of the document. A pod refuses a newer one."""
MAX_BYTES: Final = answer_limits.MAX_DOCUMENT_BYTES
MAX_FORMER_IDS: Final = 8
"""Ids of the session on other pods, at most: each move adds one until the client knows the last."""
_MAX_VALUES: Final = 2_000_000
_ID: Final = re.compile(r"sess_[0-9a-f]{24}")
_SUFFIX: Final = re.compile(r"[0-9a-f]{1,64}")
_TABLE: Final[Table] = {
    "id": Text(64),
    "former_ids": List(Text(64), MAX_FORMER_IDS, tuple),
    "suffix": Text(64),
    "service": Text(),
    "model": Text(),
    "expires_at": Count(),
    "fps": Count(1, 60),
    "remaining_s": Number(),
    "dialect": Maybe(Text(64)),
}


@dataclass(frozen=True, slots=True)
class Heading:
    """What a document says of its session before its state."""

    id: str
    """On the pod that has exported it."""
    former_ids: tuple[str, ...]
    """On pods before, as far as the client may still use them."""
    suffix: str
    """Common suffix of the identifiers of what the session has."""
    service: str
    """Service of the pod; only pods of the same one continue the session."""
    model: str
    """Service that the session reports to the client."""
    expires_at: int
    """End of the session, seconds since 1970, as it is reported to the client."""
    fps: int
    remaining_s: float
    """Until the maximum duration of the session, seconds."""
    dialect: str | None
    """The form of the protocol that the client speaks; `None` for the GA form."""

    @property
    def known_ids(self) -> tuple[str, ...]:
        """The ids by which a client may ask for the session, the newest first."""
        return (self.id, *self.former_ids)[:MAX_FORMER_IDS]


def describe(heading: Heading, session: Session[W], now: float) -> dict[str, object]:
    """Return the document of a session without what its connections leave behind.

    Raises:
        ProtocolError: the session cannot move as it is now.
    """
    return {
        "schema": SCHEMA,
        **document_fields.export(heading, _TABLE),
        "config": config_document.export(session.config),
        "state": session.export(now),
    }


def encode(document: Mapping[str, object]) -> bytes:
    """Return a document as JSON.

    Raises:
        ProtocolError: it is too large to be moved.
    """
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    _check_size(len(body))
    return body


def decode(body: bytes) -> StrictFields:
    """Return the fields of a document.

    Raises:
        ProtocolError: it is too large, not JSON, or of a schema that this pod does not know.
    """
    _check_size(len(body))
    if body.count(b",") > _MAX_VALUES:
        message = f"the document has over {_MAX_VALUES} values"
        raise ProtocolError("invalid_value", message, limit=_MAX_VALUES)
    try:
        document: Any = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", f"the document is not JSON: {error}"[:200]) from None
    if not isinstance(document, dict):
        raise ProtocolError("invalid_json", "the document is not a JSON object")
    fields = StrictFields(document)
    schema = fields.integer("schema", 1, document_fields.MAX_COUNT)
    if schema > SCHEMA:
        expected = f"this pod reads documents up to schema {SCHEMA}"
        raise fields.error("unsupported_schema", "schema", expected, SCHEMA)
    return fields


def heading(fields: StrictFields) -> Heading:
    """Return the heading of a document.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    found = Heading(**document_fields.read(fields, _TABLE))
    for name, ids in (("id", (found.id,)), ("former_ids", found.former_ids)):
        for each in ids:
            is_id = _ID.fullmatch(each) is not None
            document_fields.check(is_id, fields, name, f"{shown(each)} is not an id of a session")
    is_suffix = _SUFFIX.fullmatch(found.suffix) is not None
    document_fields.check(is_suffix, fields, "suffix", "must be hexadecimal digits")
    return found


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        message = f"the document has {size} bytes, must have at most {MAX_BYTES}"
        raise ProtocolError("document_too_large", message, value=size, limit=MAX_BYTES)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
