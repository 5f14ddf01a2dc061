"""Where a request has its credential, and the short-lived client secrets.

A client secret contains its service, its expiry time, who minted it, and a signature. Every replica
accepts it, no replica stores it, and it becomes invalid with the credential that minted it. That of
a key of the platform is signed with this key; that of a tenant's credential with a key that is
derived from the gateway key and from the stored hash of the credential.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts import documents
from avatar_gateway.core import api_keys
from avatar_gateway.core.tenants import PLATFORM_KEY, Credential, CredentialKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SECRET_PREFIX: Final = "ek_"
PROTOCOL_PREFIX: Final = "openai-insecure-api-key."
MIN_TTL_S: Final = 60
MAX_TTL_S: Final = 600
MAX_LENGTH: Final = 8192
"""Characters of a credential; a longer one is wrong."""
_SIGNING_CONTEXT: Final = b"avatar-gateway client secret v1"
_TENANT_CONTEXT: Final = b"avatar-gateway client secret of a tenant v1"
_KINDS: Final = {kind.value: kind for kind in CredentialKind}


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """The content of a client secret."""

    expires_at: int
    """When it expires: Unix time in seconds."""
    model: str
    """The service that it permits."""
    secret_id: str = ""
    origin: str = ""
    """The origin of the only page that may use it; empty for all that the tenant permits."""
    max_uses: int = 0
    """How many sessions it opens; 0 for no limit."""
    tenant: str = ""
    """Empty for the platform."""
    source: Credential = PLATFORM_KEY
    """What minted it."""


@dataclass(frozen=True, slots=True)
class SignedSecret:
    """A client secret whose signature is not verified yet."""

    content: ClientSecret
    body: str
    signature: bytes

    def is_signed_with(self, keys: Iterable[bytes]) -> bool:
        """Return whether one of the keys made the signature."""
        made = [hmac.compare_digest(self.signature, _signature(key, self.body)) for key in keys]
        return any(made)


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


def looks_like_credential(text: str) -> bool:
    """Return whether a text is or contains what only credentials look like."""
    if text.startswith((SECRET_PREFIX, "sk-")) or api_keys.contains_key(text):
        return True
    # A JSON Web Token: the header is an object, which is "eyJ" in base64.
    return text.startswith("eyJ") and text.count(".") == 2


def platform_signing_key(api_key: str) -> bytes:
    """Return what signs the client secrets of a key of the platform."""
    return hmac.new(api_key.encode(), _SIGNING_CONTEXT, hashlib.sha256).digest()


def tenant_signing_key(gateway_key: str, tenant: str, source: Credential, proof: bytes) -> bytes:
    """Return what signs the client secrets of a tenant's credential.

    `proof` changes with the credential: the stored hash of an API key, empty for an issuer. Without
    the gateway key, whoever reads it cannot sign.
    """
    words = json.dumps([tenant, source.kind.value, source.name, proof.hex()])
    message = _TENANT_CONTEXT + words.encode()
    return hmac.new(gateway_key.encode(), message, hashlib.sha256).digest()


def mint(signing_key: bytes, secret: ClientSecret) -> str:
    """Return a signed client secret; the text is a valid WebSocket subprotocol token."""
    fields: list[object] = [secret.expires_at, secret.model, secret.secret_id]
    # The short form is that of earlier releases, so that replicas of both accept it.
    if secret.tenant or secret.origin or secret.max_uses:
        source = secret.source
        fields += [secret.origin, secret.max_uses, secret.tenant, source.kind.value, source.name]
    body = _encode(json.dumps(fields, separators=(",", ":")).encode())
    return f"{SECRET_PREFIX}{body}.{_encode(_signature(signing_key, body))}"


def parse_secret(text: str, now: float) -> SignedSecret | None:
    """Return what a text says as a client secret, or None if it is malformed or expired."""
    body, separator, signature = text.removeprefix(SECRET_PREFIX).partition(".")
    if not text.startswith(SECRET_PREFIX) or not separator or len(text) > MAX_LENGTH:
        return None
    try:
        given = _decode(signature)
        content = _content(documents.parse(_decode(body)))
    except (ValueError, binascii.Error):
        return None
    if content is None or now >= content.expires_at:
        return None
    return SignedSecret(content, body, given)


def _content(fields: object) -> ClientSecret | None:
    match fields:
        # Earlier releases signed secrets for all services, with null as the model.
        case [int(expires_at), str(model), str(secret_id)]:
            return ClientSecret(expires_at, model, secret_id)
        case [
            int(expires_at),
            str(model),
            str(secret_id),
            str(origin),
            int(max_uses),
            str(tenant),
            str(kind),
            str(name),
        ] if kind in _KINDS:
            source = Credential(_KINDS[kind], name)
            return ClientSecret(expires_at, model, secret_id, origin, max_uses, tenant, source)
    return None


def _signature(signing_key: bytes, body: str) -> bytes:
    return hmac.new(signing_key, body.encode(errors="surrogatepass"), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
