"""Parses requests: the query of `/v1/realtime`, and the body that requests a client secret."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import documents
from avatar_contracts.tokens import URL_KEYS
from avatar_gateway import errors
from avatar_gateway.core import credentials
from avatar_gateway.core.tenants import PLATFORM, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REALTIME_PATH: Final = "/v1/realtime"
PATHS: Final = (REALTIME_PATH, "/voice-live/realtime")
"""Where a caller opens a session. The pod translates the second one, which is Azure's."""
MAX_WAIT_MS: Final = 600_000
_MAX_BODY_BYTES: Final = 64 * 1024
MAX_AVATAR: Final = 253
"""Longest name of an avatar in a body, in characters."""
MAX_USES: Final = 1000
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.\[\]:-]{1,253}")
"""As browsers send it (RFC 6454, section 6.2): lowercase, without a path."""
_NAME: Final = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
)
_GATEWAY_PARAMETERS: Final = frozenset({"refuse", "resumes", "wait_ms"})
"""Parameters that only the gateway uses; the pod does not receive them."""
_SECRET_TTL_S: Final = credentials.MAX_TTL_S


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request for a session."""

    model: str
    """The AvatarService, `NAMESPACE/NAME`."""
    wait_ms: int
    """How long the caller waits for a slot, in milliseconds."""
    forwarded: Sequence[tuple[str, str]]
    """The query parameters for the pod."""
    path: str = REALTIME_PATH
    """The path at the pod, which is that of the caller."""
    resume: str | None = None
    """The session that the caller continues; `None` for a new one."""
    caller: str | None = None
    """The address of the caller; `None` if it is not known."""
    principal: Principal = PLATFORM
    """Who makes the request."""
    avatar: str = ""
    """The avatar that the session starts with; empty for the first one of the service."""
    can_resume: bool = False
    """Whether the caller continues its session on another connection when this one ends."""


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """A request for a client secret."""

    ttl_s: int
    model: str
    max_uses: int
    """How many sessions the secret opens; 0 for no limit."""
    origin: str
    """The origin of the only page that may use it; empty for no limit."""
    session: Mapping[str, Any]
    """The `session` object of the request, which the response returns unchanged."""


def wants_close_code(query: Sequence[tuple[str, str]]) -> bool:
    """Return whether the caller wants a rejection as a close code, which a browser can read."""
    return ("refuse", "close") in query


def check_no_key(query: Sequence[tuple[str, str]], api_keys: Sequence[str]) -> None:
    """Reject a query that contains a credential; the message does not repeat it.

    Raises:
        Rejection: the query contains a credential.
    """
    for name, value in query:
        if _contains_key(name, api_keys):
            raise errors.Rejection("key_in_url", "the name of a query parameter is a credential")
        if name.lower() in URL_KEYS or _contains_key(value, api_keys):
            raise errors.Rejection(
                "key_in_url", f"the query parameter {name[:64]!r} contains a credential", param=name
            )


def _contains_key(text: str, api_keys: Sequence[str]) -> bool:
    return credentials.looks_like_credential(text) or any(key in text for key in api_keys)


def parse(
    query: Sequence[tuple[str, str]], path: str = REALTIME_PATH, caller: str | None = None
) -> SessionRequest:
    """Return the session request of a path, which is one of `PATHS`, a query and a caller.

    Raises:
        Rejection: a parameter is missing, set more than once, or has a wrong value.
    """
    values = dict(query)
    if len(values) != len(query):
        names = [name for name, _ in query]
        repeated = next(name for name in names if names.count(name) > 1)
        raise errors.Rejection("invalid_query", f"{repeated} is set more than once", param=repeated)
    refuse = values.get("refuse", "status")
    if refuse not in ("close", "status"):
        raise _invalid("refuse", refuse, ["close", "status"])
    resumes = values.get("resumes", "0")
    if resumes not in ("0", "1"):
        raise _invalid("resumes", resumes, ["0", "1"])
    return SessionRequest(
        model=_model(values.get("model", "")),
        wait_ms=_wait_ms(values.get("wait_ms", "0")),
        forwarded=[(name, value) for name, value in query if name not in _GATEWAY_PARAMETERS],
        path=path,
        resume=values.get("resume"),
        caller=caller,
        avatar=values.get("avatar", ""),
        can_resume=resumes == "1" or "resume" in values,
    )


def is_model(text: str) -> bool:
    """Return whether a text has the form of the name of an AvatarService, `NAMESPACE/NAME`."""
    return _NAME.fullmatch(text) is not None


def parse_secret(body: Any) -> SecretRequest:
    """Return the request in a body of `POST /v1/realtime/client_secrets`.

    Raises:
        Rejection: a field has a wrong type or a wrong value.
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
    if model is None:
        raise errors.Rejection(
            "invalid_query",
            "session.model is missing, must be NAMESPACE/NAME: a client secret permits one service",
            param="session.model",
        )
    if not isinstance(model, str) or not _NAME.fullmatch(model):
        raise _invalid("session.model", model, "NAMESPACE/NAME")
    own = _object(body.get("avatar", {}), "avatar")
    return SecretRequest(ttl_s, model, _max_uses(own), _origin(own), session)


def _max_uses(own: Mapping[str, Any]) -> int:
    uses = own.get("max_uses")
    if uses is None:
        return 0
    if not isinstance(uses, int) or isinstance(uses, bool) or not 1 <= uses <= MAX_USES:
        raise _invalid("avatar.max_uses", uses, [1, MAX_USES])
    return uses


def _origin(own: Mapping[str, Any]) -> str:
    origin = own.get("origin")
    if origin is None:
        return ""
    if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
        raise _invalid("avatar.origin", origin, "an origin, for example https://acme.example")
    return origin


def parse_body(data: bytes) -> Any:
    """Return the value of a body in JSON.

    Raises:
        Rejection: it is too large, or not JSON.
    """
    if len(data) > _MAX_BODY_BYTES:
        raise errors.Rejection(
            "invalid_query",
            f"the body has {len(data)} bytes, must have at most {_MAX_BODY_BYTES}",
            value=len(data),
            limit=_MAX_BODY_BYTES,
        )
    try:
        return documents.parse(data)
    except ValueError as error:
        raise errors.Rejection("invalid_query", "the body is not valid JSON") from error


def parse_direct(data: bytes, principal: Principal) -> SessionRequest:
    """Return the request in a body of `POST /v1/sessions`: `model`, and `avatar` if it has one.

    Raises:
        Rejection: it is not a JSON object, or a field is missing, unknown or wrong.
    """
    body = _object(parse_body(data), "body")
    for name in body.keys() - {"model", "avatar"}:
        raise _invalid(str(name)[:64], "set", "left out: model and avatar are known")
    model, avatar = body.get("model", ""), body.get("avatar", "")
    if not isinstance(model, str):
        raise _invalid("model", model, "NAMESPACE/NAME")
    if not isinstance(avatar, str) or len(avatar) > MAX_AVATAR:
        raise _invalid("avatar", avatar, f"a text of up to {MAX_AVATAR} characters")
    return SessionRequest(_model(model), 0, (), avatar=avatar, principal=principal)


def _model(text: str) -> str:
    if not text:
        raise errors.Rejection(
            "invalid_query", "model is missing, must be NAMESPACE/NAME", param="model"
        )
    if not _NAME.fullmatch(text):
        raise _invalid("model", text, "NAMESPACE/NAME")
    return text


def _wait_ms(text: str) -> int:
    # A text with more digits than the limit exceeds it, and int() of a long text is slow.
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WAIT_MS))
    if not digits or int(text) > MAX_WAIT_MS:
        raise _invalid("wait_ms", text, [0, MAX_WAIT_MS])
    return int(text)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(name, type(value).__name__, "an object")
    return value


def _invalid(param: str, value: object, limit: object) -> errors.Rejection:
    shown = str(value)[:64]
    return errors.Rejection(
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
