"""Verifies JSON Web Tokens (RFC 7519) of the issuers that tenants trust.

The best practices of RFC 8725 apply: the tenant pins the algorithms, the key decides which of them
fit, and a token is refused before any cryptography unless its issuer, its audience and the claims
that a tenant requires are known. Headers that name a key by an address (`jku`, `x5u`) or contain
one (`jwk`, `x5c`) are not read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any, Final

import jwt

from avatar_contracts import documents
from avatar_gateway.core.tenant_objects import ALGORITHMS
from avatar_gateway.core.tenants import Credential, CredentialKind, Principal

if TYPE_CHECKING:
    from avatar_gateway.core.tenant_objects import Issuer
    from avatar_gateway.streams.key_sets import KeySets
    from avatar_gateway.tenant_registry import TenantRegistry

MAX_TOKEN: Final = 8192
"""Characters."""
_MAX_KID: Final = 256
_MAX_VERIFICATIONS: Final = 4
"""Tenants that may trust the same token are tried in this number, the oldest first."""


class TokenVerifier:
    """Verifies tokens."""

    def __init__(self, registry: TenantRegistry, key_sets: KeySets) -> None:
        self._registry = registry
        self._key_sets = key_sets

    async def verify(self, text: str, now: float) -> Principal | None:
        """Return who presents a token, None if it is not valid."""
        unverified = _decode(text)
        if unverified is None:
            return None
        header, claims = unverified
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in ALGORITHMS or header.keys() & {"crit", "b64"}:
            return None
        if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
            return None
        tried = 0
        for tenant, issuer in self._registry.trusting(claims):
            if algorithm not in issuer.algorithms or not _is_current(claims, issuer, now):
                continue
            key = await self._key_sets.find(issuer, kid, algorithm)
            if key is None:
                continue
            if _is_valid(text, key, algorithm, issuer):
                source = Credential(CredentialKind.JWT, issuer.issuer, _holder(claims.get("sub")))
                return Principal(tenant.tenant, source, expires_at=float(claims["exp"]))
            tried += 1
            if tried == _MAX_VERIFICATIONS:
                break
        return None


def _decode(text: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the header and the claims of a token, which are not verified."""
    parts = text.split(".")
    if len(text) > MAX_TOKEN or len(parts) != 3:
        return None
    try:
        header, claims = (documents.parse_object(_base64(part)) for part in parts[:2])
    except (ValueError, binascii.Error):
        return None
    return header, claims


def _base64(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _is_current(claims: dict[str, Any], issuer: Issuer, now: float) -> bool:
    """Return whether `exp` is a number that lies ahead; the library checks it again, and `nbf`."""
    expires_at = claims.get("exp")
    if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
        return False
    return now < expires_at + issuer.skew_s


def _is_valid(text: str, key: jwt.PyJWK, algorithm: str, issuer: Issuer) -> bool:
    try:
        jwt.decode(
            text,
            key,
            algorithms=[algorithm],
            audience=sorted(issuer.audiences),
            issuer=issuer.issuer,
            leeway=issuer.skew_s,
            options={
                "require": ["exp", "iss", "aud"],
                "enforce_minimum_key_length": True,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return False
    return True


def _holder(subject: object) -> str:
    """Return a code for a subject: logs tell subjects apart and do not name them."""
    if not isinstance(subject, str):
        return ""
    return hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()[:12]
