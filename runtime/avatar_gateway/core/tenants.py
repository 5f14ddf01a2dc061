"""Tenants, and who makes a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class AtMonthlyLimit(Enum):
    """What happens when a tenant has used its minutes of the month."""

    REFUSE = "Refuse"
    """New sessions are refused; live ones go on."""
    REPORT = "Report"
    """Sessions go on; the status and the usage say so."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use at most; None stands for no limit."""

    sessions: int | None = None
    """Sessions at a time, over all services and gateways."""
    sessions_per_service: int | None = None
    """Sessions at a time of each service."""
    session_s: int | None = None
    """Duration of one session, in seconds."""
    minutes_per_month: int | None = None
    """Minutes of sessions in a calendar month (UTC)."""
    at_monthly_limit: AtMonthlyLimit = AtMonthlyLimit.REFUSE


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer, from an AvatarTenant object."""

    name: str
    limits: TenantLimits = TenantLimits()
    weight: int = 1
    """Its share of the slots that become free while callers wait, relative to other tenants."""
    priority: int = 0
    """Waiting callers of a higher priority get a slot first."""
    gpu_classes: frozenset[str] = frozenset()
    """The GPU classes that its sessions may run on; empty for all."""


class CredentialKind(Enum):
    """The kinds of credentials that open sessions."""

    PLATFORM_KEY = "platform-key"
    API_KEY = "key"
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential without what is secret in it."""

    kind: CredentialKind = CredentialKind.PLATFORM_KEY
    name: str = ""
    """The id of an API key, or the issuer of a token; empty for a key of the platform."""
    holder: str = ""
    """A code for the subject of a token, so that its actions can be told from those of others."""

    def __str__(self) -> str:
        parts = [self.kind.value, self.name, self.holder]
        return ":".join(part for part in parts if part)


PLATFORM_KEY: Final = Credential()


@dataclass(frozen=True, slots=True)
class ClientSecretUse:
    """The client secret that a request presents."""

    secret_id: str
    expires_at: int
    """Unix time in seconds."""
    max_uses: int = 0
    """How many sessions it opens; 0 for no limit."""
    origin: str = ""
    """The origin of the only page that may use it; empty for all that the tenant permits."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, after its credential was verified."""

    tenant: Tenant | None = None
    """None for an API key of the platform, which belongs to no tenant and has no limits."""
    source: Credential = PLATFORM_KEY
    """The API key or the token; for a client secret, that which minted it."""
    model: str | None = None
    """The only service that it may use, `NAMESPACE/NAME`; None for all services of the tenant."""
    client_secret: ClientSecretUse | None = None
    expires_at: float | None = None
    """When the token expires, Unix time in seconds; None for keys."""

    @property
    def credential(self) -> str:
        """Return the public name of the credential, which logs may contain."""
        if self.client_secret is None:
            return str(self.source)
        return f"client-secret:{self.client_secret.secret_id} of {self.source}"

    @property
    def tenant_name(self) -> str:
        """Return the name of the tenant, empty for the platform."""
        return "" if self.tenant is None else self.tenant.name

    @property
    def gpu_classes(self) -> frozenset[str]:
        """Return the GPU classes that its sessions may run on; empty for all."""
        return frozenset() if self.tenant is None else self.tenant.gpu_classes


PLATFORM: Final = Principal()
"""Who has an API key of the platform."""
