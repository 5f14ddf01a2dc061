"""Builds the status of an AvatarTenant from the reports of the gateways and the pods that exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.status import service_status
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.core.resources.tenant import Tenant
    from avatar_operator.core.resources.tenant_report import TenantReport

EXPIRY_NOTICE_S: Final = 7 * 86_400.0
"""How long before the last API key of a tenant ends the condition says so."""
_NAMED: Final = 3  # services that a message names
_LIMITS: Final = {
    "minutesPerMonth": Reason.MINUTES_PER_MONTH,
    "sessions": Reason.SESSIONS,
    "sessionsPerService": Reason.SESSIONS_PER_SERVICE,
}
"""The limits that gateways report; the first one that applies is the reason."""


@dataclass(frozen=True, slots=True)
class TenantUse:
    """What is observed of one tenant."""

    reports: Sequence[TenantReport] = ()
    """Of the gateways that know the tenant."""
    know_each_other: bool = True
    """Whether every gateway knows the sessions of the others."""
    usable: int = 0
    """Services that it may use."""
    owned: int = 0
    """Services that belong to it."""
    gpus: int = 0
    """Pods of these services."""
    cost: Decimal | None = None
    """Their cost per hour; None if no class has a cost."""
    limited: Sequence[ServiceKey] = ()
    """The services that want more pods than the quota allows."""

    @property
    def sessions(self) -> int:
        """The live sessions of all gateways."""
        return sum(report.sessions for report in self.reports)

    @property
    def waiting(self) -> int:
        """The waiting callers of all gateways."""
        return sum(report.waiting for report in self.reports)

    @property
    def minutes(self) -> int:
        """The started minutes of this month: each gateway reports those of all."""
        seconds = max((report.seconds_this_month for report in self.reports), default=0)
        return -(-seconds // 60)


def build(
    tenant: Tenant, use: TenantUse, generation: int, previous: Mapping[str, object], now: float
) -> Body:
    """Return the status of a tenant; `now` is in seconds since 1970."""
    findings = (
        _ready(tenant, use),
        _keys_valid(tenant, use, now),
        _issuers_available(tenant, use),
        _quota_exceeded(tenant, use),
    )
    return {
        "observedGeneration": generation,
        "sessions": use.sessions,
        "waiting": use.waiting,
        "minutesThisMonth": use.minutes,
        "gpus": use.gpus,
        **({} if use.cost is None else {"costPerHour": str(use.cost)}),
        "conditions": service_status.timed_conditions(generation, findings, previous, now),
    }


def build_invalid(fault: str, generation: int, previous: Mapping[str, object], now: float) -> Body:
    """Return the status of a tenant whose spec is wrong: it may use nothing."""
    findings = (Finding(Condition.READY, False, Reason.INVALID_SPEC, fault),)
    conditions = service_status.timed_conditions(generation, findings, previous, now)
    return {**previous, "observedGeneration": generation, "conditions": conditions}


def is_urgent(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Return whether more differs than numbers and messages, which change with each session."""
    return _without_numbers(before) != _without_numbers(after)


def _without_numbers(status: Mapping[str, object]) -> list[object]:
    found = status.get("conditions")
    conditions = found if isinstance(found, list) else []
    return [
        status.get("observedGeneration"),
        sorted(
            tuple(str(each.get(key)) for key in ("type", "status", "reason")) for each in conditions
        ),
    ]


def _ready(tenant: Tenant, use: TenantUse) -> Finding:
    if not use.usable:
        message = "no AvatarService matches spec.access and names the tenant or nobody"
        return Finding(Condition.READY, False, Reason.NO_SERVICE, message)
    if not (tenant.secrets or tenant.issuers):
        message = "neither spec.apiKeys nor spec.jwt is set, so no caller is known as this tenant"
        return Finding(Condition.READY, False, Reason.NO_CREDENTIAL, message)
    if use.reports and not tenant.issuers and not any(r.valid_keys for r in use.reports):
        message = "no API key is valid, and spec.jwt is not set"
        return Finding(Condition.READY, False, Reason.KEYS_UNUSABLE, message)
    message = f"may use {text.count(use.usable, 'AvatarService')}, {use.owned} of them alone"
    return Finding(Condition.READY, True, Reason.SERVICES_AVAILABLE, message)


def _keys_valid(tenant: Tenant, use: TenantUse, now: float) -> Finding:
    condition = Condition.KEYS_VALID
    problems = sorted({report.keys_problem for report in use.reports} - {""})
    if problems:
        return Finding(condition, False, Reason.KEYS_UNUSABLE, "; ".join(problems[:_NAMED]))
    if not tenant.secrets:
        issuers = text.count(tenant.issuers, "issuer")
        message = f"spec.apiKeys is not set; spec.jwt has {issuers}"
        return Finding(condition, True, Reason.KEYS_NOT_CONFIGURED, message)
    if not use.reports:
        message = "no gateway has reported the keys of the tenant yet"
        return Finding(condition, None, Reason.GATEWAYS_SILENT, message)
    fewest = min(report.valid_keys for report in use.reports)
    if not fewest:
        message = f"no key in {text.count(tenant.secrets, 'Secret')} of spec.apiKeys is valid"
        return Finding(condition, False, Reason.KEYS_UNUSABLE, message)
    message, reason = f"{text.count(fewest, 'key')} can be used", Reason.KEYS_USABLE
    if ends := [report.keys_end_at for report in use.reports if report.keys_end_at]:
        message += f", none of them after {text.rfc3339(min(ends))}"
        reason = Reason.KEYS_EXPIRE_SOON if min(ends) - now <= EXPIRY_NOTICE_S else reason
    return Finding(condition, True, reason, message)


def _issuers_available(tenant: Tenant, use: TenantUse) -> Finding:
    """Return whether the key sets of the issuers are fetched: a token may be refused while not.

    It is no part of `KeysValid`, because API keys and the keys that were fetched last go on.
    """
    condition = Condition.ISSUERS_AVAILABLE
    if not tenant.issuers:
        return Finding(condition, True, Reason.ISSUERS_NOT_CONFIGURED, "spec.jwt is not set")
    problems = sorted({report.issuers_problem for report in use.reports} - {""})
    if problems:
        return Finding(condition, False, Reason.KEY_SETS_UNAVAILABLE, "; ".join(problems[:_NAMED]))
    if not use.reports:
        message = "no gateway has reported the issuers of the tenant yet"
        return Finding(condition, None, Reason.GATEWAYS_SILENT, message)
    message = f"the key sets of {text.count(tenant.issuers, 'issuer')} can be used"
    return Finding(condition, True, Reason.KEY_SETS_FETCHED, message)


def _quota_exceeded(tenant: Tenant, use: TenantUse) -> Finding:
    condition, reached = Condition.QUOTA_EXCEEDED, _reached(tenant, use)
    if reached:
        messages = "; ".join(message for _, message in reached)
        return Finding(condition, True, reached[0][0], messages)
    if not use.know_each_other:
        message = "a gateway does not know the sessions of the other gateways: the shared state "
        message += "is unavailable"
        return Finding(condition, None, Reason.SHARED_STATE_UNAVAILABLE, message)
    return Finding(condition, False, Reason.WITHIN_LIMITS, "no limit holds callers or pods back")


def _reached(tenant: Tenant, use: TenantUse) -> list[tuple[Reason, str]]:
    """Return the limits that hold callers or pods back, each with a sentence."""
    limits, reported = tenant.limits, {report.limited_by for report in use.reports}
    minutes = limits.minutes_per_month
    if minutes is not None and use.minutes >= minutes:
        reported.add("minutesPerMonth")
    callers = f"{text.count(use.waiting, 'caller')} {'waits' if use.waiting == 1 else 'wait'}"
    messages = {
        "minutesPerMonth": f"{use.minutes} of {minutes} minutes of this month are used",
        "sessions": f"{use.sessions} of {limits.sessions} sessions are live, {callers}",
        "sessionsPerService": (
            f"a service has {limits.sessions_per_service} sessions of this tenant, {callers}"
        ),
    }
    found = [(reason, messages[name]) for name, reason in _LIMITS.items() if name in reported]
    if not use.limited:
        return found
    names = ", ".join(map(str, use.limited[:_NAMED]))
    more = len(use.limited) - _NAMED
    names += f" and {more} more" if more > 0 else ""
    verb = "wants" if len(use.limited) == 1 else "want"
    quota = tenant.quota
    if quota.gpus is not None:
        used = f"{use.gpus} of {text.count(quota.gpus, 'GPU')} are used"
        found.append((Reason.GPUS, f"{names} {verb} more pods; {used}"))
    if quota.cost_per_hour is not None:
        spent = f"{use.cost} of {quota.cost_per_hour} per hour are spent"
        found.append((Reason.COST_PER_HOUR, f"{names} {verb} more pods; {spent}"))
    return found
