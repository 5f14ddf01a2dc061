"""API keys and the short-lived secrets made from them.

A client secret carries its own expiry and signature: every replica with the same API key
accepts it, nothing is stored, and it dies with the key.
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
URL_KEYS: Final = frozenset(
    {"access_token", "api-key", "api_key", "apikey", "authorization", "client_secret", "key"}
    | {"secret", "token"}
)
"""Query parameters that can only be a credential; addresses end up in logs."""
MIN_TTL_S: Final = 60
MAX_TTL_S: Final = 600
_SIGNING_CONTEXT: Final = b"avatar-gateway client secret v1"


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """What a client secret allows."""

    expires_at: int
    """Unix time in seconds."""
    model: str | None
    """The only service it opens; None for all."""


def presented(headers: Mapping[str, str], subprotocols: Sequence[str]) -> str | None:
    """Return the credential of a request, from wherever it may stand; None if there is none."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    if key := headers.get("api-key", "").strip():
        return key
    for protocol in subprotocols:
        if protocol.startswith(PROTOCOL_PREFIX):
            return protocol.removeprefix(PROTOCOL_PREFIX)
    return None


def is_key(credential: str, api_key: str) -> bool:
    """Return whether a credential is the API key, in a time that tells nothing."""
    # A header may hold bytes that are no UTF-8; they arrive as lone surrogates.
    return hmac.compare_digest(credential.encode(errors="surrogatepass"), api_key.encode())


def mint(api_key: str, secret: ClientSecret, nonce: str) -> str:
    """Return the text of a client secret; it is a valid WebSocket subprotocol token."""
    payload = json.dumps([secret.expires_at, secret.model, nonce], separators=(",", ":"))
    body = _encode(payload.encode())
    return f"{SECRET_PREFIX}{body}.{_encode(_signature(api_key, body))}"


def verify(api_key: str, text: str, now: float) -> ClientSecret | None:
    """Return what a client secret allows; None if it is forged, broken or expired."""
    body, separator, signature = text.removeprefix(SECRET_PREFIX).partition(".")
    if not text.startswith(SECRET_PREFIX) or not separator:
        return None
    try:
        given = _decode(signature)
        # The signature is checked before anything inside is looked at.
        if not hmac.compare_digest(given, _signature(api_key, body)):
            return None
        expires_at, model, _ = json.loads(_decode(body))
    except (ValueError, binascii.Error):
        return None
    return ClientSecret(expires_at, model) if now < expires_at else None


def _signature(api_key: str, body: str) -> bytes:
    key = hmac.new(api_key.encode(), _SIGNING_CONTEXT, hashlib.sha256).digest()
    return hmac.new(key, body.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
