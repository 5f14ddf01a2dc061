"""How a rejection reaches the caller: an HTTP status, or a close code for a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_gateway import errors

RETRY_AFTER_S: Final = 5
"""`Retry-After` of a rejection for missing capacity: about the start time of a warm pod."""


@dataclass(frozen=True, slots=True)
class RejectionMapping:
    """The response for one error code (docs/wire-protocol.md, "Refused connections")."""

    status: int
    """HTTP status before the upgrade."""
    close_code: int | None
    """Close code for a browser, which cannot read the status; None if the upgrade is impossible."""
    headers: tuple[tuple[str, str], ...] = ()
    """Additional HTTP headers."""


_RETRY: Final = (("Retry-After", str(RETRY_AFTER_S)),)
_MAPPINGS: Final[Mapping[str, RejectionMapping]] = {
    "invalid_handshake": RejectionMapping(400, None),
    "invalid_query": RejectionMapping(400, 1008),
    "key_in_url": RejectionMapping(400, 1008),
    "unauthenticated": RejectionMapping(401, 4401, (("WWW-Authenticate", "Bearer"),)),
    "credential_revoked": RejectionMapping(401, 4401),
    "access_revoked": RejectionMapping(403, 4403),
    "origin_not_allowed": RejectionMapping(403, 4403),
    "model_not_found": RejectionMapping(404, 4404),
    "message_too_large": RejectionMapping(413, 1009),
    "request_timeout": RejectionMapping(408, 1008),
    "too_many_connections": RejectionMapping(429, 4429, _RETRY),
    "upgrade_required": RejectionMapping(
        426, None, (("Upgrade", "websocket"), ("Connection", "Upgrade"))
    ),
    "quota_exceeded": RejectionMapping(429, 4429, _RETRY),
    "direct_mode_unavailable": RejectionMapping(403, None),
    "no_capacity": RejectionMapping(503, 1013, _RETRY),
    refusals.RESUME_REFUSED: RejectionMapping(404, refusals.RESUME_REFUSED_CLOSE),
    "draining": RejectionMapping(503, 1013, _RETRY),
    "not_ready": RejectionMapping(503, 1013, _RETRY),
}
CODES: Final = frozenset(_MAPPINGS)
"""All error codes of the gateway's own rejections."""

_CLOSE_CODE_BY_STATUS: Final[Mapping[int, int]] = {
    400: 1008,
    401: 4401,
    403: 4403,
    404: 4404,
    429: 4429,
    503: 1013,
}


def mapping_of(code: str) -> RejectionMapping:
    """Return the response for an error code of the gateway."""
    return _MAPPINGS[code]


def close_code_for_status(status: int) -> int:
    """Return the close code that replaces the HTTP status of a pod's rejection."""
    return _CLOSE_CODE_BY_STATUS.get(status, 1011)


def error_event(rejection: errors.Rejection) -> Mapping[str, Any]:
    """Return the `error` event of a caller whose WebSocket is open."""
    return {"type": "error", "event_id": "event_refused", "error": error_object(rejection)}


def error_object(rejection: errors.Rejection) -> Mapping[str, Any]:
    """Return the `error` object of the wire protocol."""
    status = mapping_of(rejection.code).status
    return {
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "code": rejection.code,
        "message": str(rejection),
        "param": rejection.param,
        "event_id": None,
        "value": rejection.value,
        "limit": rejection.limit,
    }
