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


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, after its credential was verified."""

    tenant: Tenant | None = None
    """None for an API key of the platform, which belongs to no tenant and has no limits."""
    credential: str = ""
    """The public name of the credential, by which its sessions are found when it is revoked."""
    model: str | None = None
    """The only service that it may use, `NAMESPACE/NAME`; None for all services of the tenant."""

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
