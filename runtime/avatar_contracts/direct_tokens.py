"""One-time tokens with which a client opens a session at a pod, without a gateway between them.

A gateway makes a token, and the pod that it names accepts it once. The token is the claims as JSON
in base64url, and their HMAC-SHA256 under the session token of the service, which both have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.tokens import matches

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX: Final = "ot_"
TTL_S: Final = 20
"""How long a token is valid. A clock of the pod that is late makes it longer by that time."""
MAX_CHARACTERS: Final = 4096
_FORM: Final = re.compile(r"ot_([A-Za-z0-9_-]+)\.([0-9a-f]{64})")
_NONCE: Final = re.compile(r"[0-9a-f]{32}")
_MAX_NAME: Final = 317
"""Characters of `NAMESPACE/NAME`."""


@dataclass(frozen=True, slots=True)
class DirectClaims:
    """What a token permits: one session."""

    pod: str
    """The name of the pod."""
    service: str
    """`NAMESPACE/NAME` of the service that the session reports."""
    nonce: str
    """32 hexadecimal digits; no other token has it."""
    expires_at: int
    """Seconds since the epoch."""
    account: str = ""
    """What gateways know the session by in the usage of the pod (`labels.USAGE_HEADER`)."""
    max_duration_s: int | None = None
    """The limit of its tenant (`labels.MAX_DURATION_HEADER`); None without one."""


def make(session_token: str, claims: DirectClaims) -> str:
    """Return the token; `session_token` is one that the pod accepts from gateways."""
    text = base64.urlsafe_b64encode(json.dumps(asdict(claims)).encode()).decode().rstrip("=")
    return f"{PREFIX}{text}.{_mac(session_token, text)}"


def read(token: str, accepted: Iterable[str]) -> DirectClaims | None:
    """Return the claims of a token that was made with one of the accepted session tokens.

    Whether it names this pod, is still valid and was not used before, the caller checks.
    """
    found = _FORM.fullmatch(token) if len(token) <= MAX_CHARACTERS else None
    if found is None:
        return None
    text, mac = found.groups()
    if not matches(mac, [_mac(each, text) for each in accepted if each]):
        return None
    try:
        return _claims(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    except (ValueError, binascii.Error):
        return None


def _claims(value: object) -> DirectClaims | None:
    """Return claims of the right types; an older or newer release may have other ones."""
    match value:
        case {
            "pod": str(pod),
            "service": str(service),
            "nonce": str(nonce),
            "expires_at": int(expires_at),
            **more,
        } if _NONCE.fullmatch(nonce) and max(len(pod), len(service)) <= _MAX_NAME:
            account, duration_s = more.get("account", ""), more.get("max_duration_s")
            if not isinstance(account, str) or not isinstance(duration_s, int | None):
                return None
            return DirectClaims(pod, service, nonce, expires_at, account, duration_s)
        case _:
            return None


def _mac(session_token: str, text: str) -> str:
    return hmac.new(session_token.encode(), f"direct:{text}".encode(), hashlib.sha256).hexdigest()
