"""Reads AvatarTenant objects: what a tenant may use, and which credentials prove it.

The API server checks the objects by the schema of the CRD. They are checked here again, because an
object may be older than the schema: a wrong field disables its tenant, and no other one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from avatar_contracts.fields import Fault, Fields
from avatar_contracts.tenant_access import Access, parse_access
from avatar_gateway.core.tenants import AtMonthlyLimit, Tenant, TenantLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signature algorithms of tokens that a tenant may permit: never `none`, never a shared secret."""
DEFAULT_ALGORITHMS: Final = ("RS256", "ES256")
_LABEL: Final = r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z"
_LABEL_LIMIT: Final = (
    "lowercase letters, digits and '-', at most 63; must start and end with a letter or digit"
)
_MAX: Final = {
    "spec.access.gpuClasses": 100,
    "spec.apiKeys.secretRefs": 10,
    "spec.jwt": 5,
    "audiences": 10,
    "requiredClaims": 10,
    "spec.origins": 50,
}
_MAX_JWKS: Final = 1 << 16
_MAX_SHOWN: Final = 3
"""Faults that a sentence names."""
_HIGHEST: Final = 10**9


class OnRevocation(Enum):
    """What happens to live sessions when the credential that opened them is revoked."""

    KEEP = "KeepSessions"
    END = "EndSessions"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of JSON Web Tokens (RFC 7519) that a tenant trusts."""

    issuer: str
    audiences: frozenset[str]
    jwks_url: str = ""
    jwks: str = ""
    """The key set itself. If this and the URL are empty, the URL is discovered from the issuer."""
    algorithms: frozenset[str] = frozenset(DEFAULT_ALGORITHMS)
    required_claims: tuple[tuple[str, str], ...] = ()
    """Names and values, sorted by name."""
    skew_s: int = 30


@dataclass(frozen=True, slots=True)
class TenantObject:
    """A tenant with its rights and its credentials."""

    tenant: Tenant
    access: Access = field(default_factory=Access)
    secrets: tuple[str, ...] = ()
    """The names of the Secrets with its API keys."""
    on_revocation: OnRevocation = OnRevocation.KEEP
    issuers: tuple[Issuer, ...] = ()
    origins: frozenset[str] = frozenset()
    """Origins of pages (RFC 6454) that may use its credentials; empty for all."""
    created: str = ""
    """The time of its creation as the API server wrote it; of two tenants that name the same
    Secret, the older one has its keys."""
    problem: str = ""
    """Why the object cannot be used; empty if it can. Such a tenant has no valid credential."""

    @property
    def name(self) -> str:
        """Return the name of the tenant."""
        return self.tenant.name


def parse_tenant(body: Mapping[str, Any]) -> TenantObject:
    """Return the tenant of an AvatarTenant object; `problem` names its wrong fields."""
    faults: list[Fault] = []
    metadata = Fields(body.get("metadata"), "metadata", faults)
    name = metadata.text("name", pattern=_LABEL, limit=_LABEL_LIMIT)
    spec = Fields(body.get("spec"), "spec", faults)
    access, keys = spec.child("access"), spec.child("apiKeys")
    parsed = TenantObject(
        tenant=Tenant(
            name=name,
            limits=_limits(spec.child("limits")),
            weight=spec.integer("weight", 1, 1, 1000),
            priority=spec.integer("priority", 0, 0, 1000),
            gpu_classes=frozenset(_texts(access, "gpuClasses")),
        ),
        access=parse_access(access),
        secrets=_secrets(keys),
        on_revocation=keys.choice("onRevocation", OnRevocation.KEEP),
        issuers=_issuers(spec),
        origins=frozenset(_texts(spec, "origins")),
        created=metadata.text("creationTimestamp"),
    )
    if not faults:
        return parsed
    # A wrong selector must not permit more than the right one, so nothing of it is kept.
    kept = str((body.get("metadata") or {}).get("name", ""))[:63]
    return TenantObject(Tenant(kept), created=parsed.created, problem=_sentence(faults))


def _sentence(faults: list[Fault]) -> str:
    shown = "; ".join(str(fault) for fault in faults[:_MAX_SHOWN])
    more = len(faults) - _MAX_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _limits(fields: Fields) -> TenantLimits:
    return TenantLimits(
        sessions=fields.optional_integer("sessions", 0, _HIGHEST),
        sessions_per_service=fields.optional_integer("sessionsPerService", 0, _HIGHEST),
        session_s=fields.optional_integer("sessionSeconds", 1, _HIGHEST),
        minutes_per_month=fields.optional_integer("minutesPerMonth", 0, _HIGHEST),
        at_monthly_limit=fields.choice("atMonthlyLimit", AtMonthlyLimit.REFUSE),
    )


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    found = fields.texts(name)
    _check_length(fields, name, len(found))
    return found


def _check_length(fields: Fields, name: str, length: int) -> None:
    most = _MAX.get(f"{fields.path}.{name}", _MAX.get(name, _HIGHEST))
    if length > most:
        fields.add_rule(name, f"must have at most {most} items, has {length}")


def _secrets(keys: Fields) -> tuple[str, ...]:
    found = []
    for reference in keys.children("secretRefs"):
        if reference.required("name", "the name of a Secret"):
            found.append(reference.object_name("name"))
    _check_length(keys, "secretRefs", len(found))
    return tuple(dict.fromkeys(found))


def _issuers(spec: Fields) -> tuple[Issuer, ...]:
    found = [_issuer(fields) for fields in spec.children("jwt")]
    _check_length(spec, "jwt", len(found))
    return tuple(found)


def _issuer(fields: Fields) -> Issuer:
    issuer, url = fields.text("issuer"), fields.text("jwksURL")
    jwks, audiences = fields.text("jwks"), _texts(fields, "audiences")
    claims = fields.strings("requiredClaims")
    _check_length(fields, "requiredClaims", len(claims))
    algorithms = _texts(fields, "algorithms") or DEFAULT_ALGORITHMS
    if not issuer:
        fields.add_rule("issuer", "must be set")
    if not audiences:
        fields.add_rule("audiences", "must have at least 1 item")
    if url and jwks:
        fields.add_rule(None, "must have only one of jwksURL and jwks")
    if jwks and not _is_key_set(jwks):
        fields.add_rule("jwks", f"must be a JSON Web Key Set of at most {_MAX_JWKS} characters")
    if not jwks and not is_safe_url(url or issuer):
        name = "jwksURL" if url else "issuer"
        fields.add_fault(name, url or issuer, "an https URL without credentials and fragment")
    for index, algorithm in enumerate(algorithms):
        if algorithm not in ALGORITHMS:
            limit = "one of " + ", ".join(ALGORITHMS)
            fields.add_fault(f"algorithms[{index}]", algorithm, limit)
    return Issuer(
        issuer,
        frozenset(audiences),
        url,
        jwks,
        frozenset(algorithms),
        tuple(sorted(claims.items())),
        fields.integer("clockSkewSeconds", 30, 0, 300),
    )


def is_safe_url(url: str, *, loopback: bool = True) -> bool:
    """Return whether keys may be fetched from a URL: https, or with `loopback` of this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    is_local = host in ("localhost", "127.0.0.1", "::1")
    if is_local and not loopback:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_local)


def _is_key_set(text: str) -> bool:
    if len(text) > _MAX_JWKS:
        return False
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("keys"), list)
