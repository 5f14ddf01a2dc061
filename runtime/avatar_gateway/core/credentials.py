"""API keys and the short-lived secrets made from them.

A client secret contains its service, its expiry time and a signature. Every replica with the same
API key accepts it, no replica stores it, and it becomes invalid when the key is removed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECRET_PREFIX: Final = "ek_"
PROTOCOL_PREFIX: Final = "openai-insecure-api-key."
MIN_TTL_S: Final = 60
MAX_TTL_S: Final = 600
_SIGNING_CONTEXT: Final = b"avatar-gateway client secret v1"


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """The content of a client secret."""

    expires_at: int
    """When it expires: Unix time in seconds."""
    model: str
    """The service that it permits."""


def presented(headers: Mapping[str, str], subprotocols: Sequence[str]) -> str | None:
    """Return the credential of a request, or None.

    It is read from `Authorization`, then from `api-key`, then from the subprotocols.
    """
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    if key := headers.get("api-key", "").strip():
        return key
    for protocol in subprotocols:
        if protocol.startswith(PROTOCOL_PREFIX):
            return protocol.removeprefix(PROTOCOL_PREFIX)
    return None


def mint(api_key: str, secret: ClientSecret, nonce: str) -> str:
    """Return a signed client secret; the text is a valid WebSocket subprotocol token."""
    payload = json.dumps([secret.expires_at, secret.model, nonce], separators=(",", ":"))
    body = _encode(payload.encode())
    return f"{SECRET_PREFIX}{body}.{_encode(_signature(api_key, body))}"


def verify(api_key: str, text: str, now: float) -> ClientSecret | None:
    """Return the content of a client secret, or None if it is forged, malformed or expired."""
    body, separator, signature = text.removeprefix(SECRET_PREFIX).partition(".")
    if not text.startswith(SECRET_PREFIX) or not separator:
        return None
    try:
        given = _decode(signature)
        # The signature is verified before the content is parsed.
        if not hmac.compare_digest(given, _signature(api_key, body)):
            return None
        expires_at, model, _ = json.loads(_decode(body))
    except (ValueError, binascii.Error):
        return None
    # Earlier versions signed secrets for all services, with null as the model.
    is_valid = isinstance(model, str) and now < expires_at
    return ClientSecret(expires_at, model) if is_valid else None


def _signature(api_key: str, body: str) -> bytes:
    key = hmac.new(api_key.encode(), _SIGNING_CONTEXT, hashlib.sha256).digest()
    return hmac.new(key, body.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
