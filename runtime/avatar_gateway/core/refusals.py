"""How a refusal is told: before the upgrade by status, to a browser by close code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_gateway import errors

RETRY_AFTER_S: Final = 5
"""When to come back after a refusal for want of room: about the time a warm pod needs to start."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one code goes out (wire protocol §13)."""

    status: int
    close: int | None
    """Close code for a caller that cannot read the status; None if it never gets so far."""
    headers: tuple[tuple[str, str], ...] = ()


_RETRY: Final = (("Retry-After", str(RETRY_AFTER_S)),)
_WAYS: Final[Mapping[str, Way]] = {
    "invalid_query": Way(400, 1008),
    "key_in_url": Way(400, 1008),
    "unauthenticated": Way(401, 4401, (("WWW-Authenticate", "Bearer"),)),
    "model_not_found": Way(404, 4404),
    "upgrade_required": Way(426, None, (("Upgrade", "websocket"), ("Connection", "Upgrade"))),
    "no_capacity": Way(503, 1013, _RETRY),
    "draining": Way(503, 1013, _RETRY),
    "not_ready": Way(503, 1013, _RETRY),
}
CODES: Final = frozenset(_WAYS)
"""All codes the gateway itself refuses with."""

_CLOSE_BY_STATUS: Final[Mapping[int, int]] = {
    400: 1008,
    401: 4401,
    403: 4403,
    404: 4404,
    429: 4429,
    503: 1013,
}


def way(code: str) -> Way:
    """Return how a code of our own goes out."""
    return _WAYS[code]


def close_for_status(status: int) -> int:
    """Return the close code that stands for the HTTP status of a pod's refusal."""
    return _CLOSE_BY_STATUS.get(status, 1011)


def error_object(refusal: errors.Refusal) -> Mapping[str, Any]:
    """Return the `error` object of the protocol."""
    status = way(refusal.code).status
    return {
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "code": refusal.code,
        "message": str(refusal),
        "param": refusal.param,
        "event_id": None,
        "value": refusal.value,
        "limit": refusal.limit,
    }
