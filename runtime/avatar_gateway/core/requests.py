"""What a caller asks for: the query of `/v1/realtime` and the body for a client secret."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import credentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_WAIT_MS: Final = 600_000
_NAME: Final = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
)
_OURS: Final = frozenset({"refuse", "wait_ms"})
"""Parameters that end at the gateway: it refuses and waits, the pod only takes or not."""
_SECRET_TTL_S: Final = credentials.MAX_TTL_S


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a session."""

    model: str
    """The AvatarService, `NAMESPACE/NAME`."""
    wait_ms: int
    """How long the caller would wait for a slot."""
    forwarded: Sequence[tuple[str, str]]
    """The query for the pod."""


@dataclass(frozen=True, slots=True)
class SecretAsked:
    """A request for a client secret."""

    ttl_s: int
    model: str | None
    session: Mapping[str, Any]
    """The session given, sent back as it came."""


def refuses_by_close(query: Sequence[tuple[str, str]]) -> bool:
    """Return whether refusals go out as a close, which a browser can read."""
    return ("refuse", "close") in query


def check_no_key(query: Sequence[tuple[str, str]], api_key: str) -> None:
    """Refuse a query that holds a credential; the value is not repeated.

    Raises:
        Refusal: it does.
    """
    for name, value in query:
        looks_like_one = name.lower() in credentials.URL_KEYS or value.startswith(
            (credentials.SECRET_PREFIX, "sk-")
        )
        if looks_like_one or credentials.is_key(value, api_key):
            raise errors.Refusal(
                "key_in_url", f"the query parameter {name[:64]!r} holds a credential", param=name
            )


def parse(query: Sequence[tuple[str, str]]) -> Asked:
    """Return what a query asks for.

    Raises:
        Refusal: a parameter is missing, given twice, or has a bad value.
    """
    values = dict(query)
    if len(values) != len(query):
        names = [name for name, _ in query]
        twice = next(name for name in names if names.count(name) > 1)
        raise errors.Refusal("invalid_query", f"{twice} is given more than once", param=twice)
    refuse = values.get("refuse", "status")
    if refuse not in ("close", "status"):
        raise _invalid("refuse", refuse, ["close", "status"])
    return Asked(
        model=_model(values.get("model", "")),
        wait_ms=_wait_ms(values.get("wait_ms", "0")),
        forwarded=[(name, value) for name, value in query if name not in _OURS],
    )


def parse_secret(body: Any) -> SecretAsked:
    """Return what a body of `POST /v1/realtime/client_secrets` asks for.

    Raises:
        Refusal: a field has the wrong type or a bad value.
    """
    body = _object(body, "body")
    expires = _object(body.get("expires_after", {}), "expires_after")
    anchor = expires.get("anchor", "created_at")
    if anchor != "created_at":
        raise _invalid("expires_after.anchor", anchor, ["created_at"])
    ttl_s = expires.get("seconds", _SECRET_TTL_S)
    limit = [credentials.MIN_TTL_S, credentials.MAX_TTL_S]
    if not isinstance(ttl_s, int) or isinstance(ttl_s, bool) or not limit[0] <= ttl_s <= limit[1]:
        raise _invalid("expires_after.seconds", ttl_s, limit)
    session = _object(body.get("session", {}), "session")
    model = session.get("model")
    if model is not None and (not isinstance(model, str) or not _NAME.fullmatch(model)):
        raise _invalid("session.model", model, "NAMESPACE/NAME")
    return SecretAsked(ttl_s, model, session)


def _model(text: str) -> str:
    if not text:
        raise errors.Refusal(
            "invalid_query", "model is missing, must be NAMESPACE/NAME", param="model"
        )
    if not _NAME.fullmatch(text):
        raise _invalid("model", text, "NAMESPACE/NAME")
    return text


def _wait_ms(text: str) -> int:
    # More digits than the limit has are over it; int() of a huge text is slow.
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WAIT_MS))
    if not digits or int(text) > MAX_WAIT_MS:
        raise _invalid("wait_ms", text, [0, MAX_WAIT_MS])
    return int(text)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(name, type(value).__name__, "an object")
    return value


def _invalid(param: str, value: object, limit: object) -> errors.Refusal:
    shown = str(value)[:64]
    return errors.Refusal(
        "invalid_query",
        f"{param} is {shown!r}, must be {_range(limit)}",
        param=param,
        value=value if isinstance(value, str | int | float) else shown,
        limit=limit,
    )


def _range(limit: object) -> str:
    match limit:
        case [int() as low, int() as high]:
            return f"from {low} to {high}"
        case [*choices]:
            return " or ".join(map(str, choices))
        case _:
            return str(limit)
