"""What the state document says of a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_gateway.core.tenants import AtMonthlyLimit

if TYPE_CHECKING:
    from avatar_contracts.state import TenantDemand, TenantKeys
    from avatar_gateway.core.leases import Usage
    from avatar_gateway.core.tenants import TenantLimits


def report(
    sessions: int, waiting: int, keys: TenantKeys, limits: TenantLimits, usage: Usage
) -> TenantDemand:
    """Return the entry of a tenant.

    Args:
        sessions: live sessions of this gateway.
        waiting: callers that wait at this gateway.
        keys: the state of its credentials.
        limits: its limits.
        usage: what it uses at all gateways, as last known.
    """
    return {
        "sessions": sessions,
        "waiting": waiting,
        "seconds_this_month": usage.month_ms // 1000,
        "keys": keys,
        "limited_by": limited_by(limits, usage),
    }


def limited_by(limits: TenantLimits, usage: Usage) -> str:
    """Return the limit that refuses new sessions of a tenant now, empty if none does."""
    minutes = limits.minutes_per_month
    refuses = limits.at_monthly_limit is AtMonthlyLimit.REFUSE
    if minutes is not None and refuses and usage.month_ms >= minutes * 60_000:
        return "minutesPerMonth"
    if limits.sessions is not None and usage.sessions >= limits.sessions:
        return "sessions"
    most = max(usage.by_service.values(), default=0)
    if limits.sessions_per_service is not None and most >= limits.sessions_per_service:
        return "sessionsPerService"
    return ""
