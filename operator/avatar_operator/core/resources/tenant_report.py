"""What a gateway reports of the tenants in its state document, and its parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fault, Fields
from avatar_operator.core.resources.gateway import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TENANTS: Final = 20_000
"""Tenants that are read from one document."""
MOST_SECONDS: Final = 10**12
LATEST_TIME: Final = 253_402_300_799
"""The end of the year 9999, seconds since 1970."""
LONGEST_NAME: Final = 63
LONGEST_PROBLEM: Final = 1000
"""Characters of a problem that a status repeats."""
SESSION_LIMITS: Final = ("sessions", "sessionsPerService", "minutesPerMonth")


@dataclass(frozen=True, slots=True)
class TenantReport:
    """What one gateway reports of a tenant."""

    sessions: int = 0
    """Of this gateway."""
    waiting: int = 0
    """Of this gateway."""
    seconds_this_month: int = 0
    """Of all gateways."""
    valid_keys: int = 0
    keys_end_at: int = 0
    """When the last valid key ends, seconds since 1970; 0 if one has no end, or is not known."""
    keys_problem: str = ""
    """Why an API key cannot be used; empty if all can."""
    issuers_problem: str = ""
    """Why the key set of an issuer cannot be fetched; empty if all can."""
    limited_by: str = ""
    """The limit that holds callers back; empty if none does."""


@dataclass(frozen=True, slots=True)
class TenantReports:
    """What one gateway reports of all tenants."""

    tenants: Mapping[str, TenantReport] = field(default_factory=dict)
    """By the name of the tenant."""
    knows_others: bool = True
    """Whether it knows the sessions of the other gateways."""


def parse_tenants(document: Mapping[str, object]) -> TenantReports:
    """Return the tenants in the state document of a gateway.

    An entry that is wrong is left out: the demand in the same document still counts.
    """
    found: dict[str, TenantReport] = {}
    for name, reported in islice(Fields(document, "", []).fragment("tenants").items(), MAX_TENANTS):
        faults: list[Fault] = []
        fields = Fields(reported, f"tenants.{name}", faults)
        keys = fields.child("keys")
        report = TenantReport(
            sessions=fields.integer("sessions", 0, 0, MOST),
            waiting=fields.integer("waiting", 0, 0, MOST),
            seconds_this_month=fields.integer("seconds_this_month", 0, 0, MOST_SECONDS),
            valid_keys=keys.integer("valid", 0, 0, MOST),
            keys_end_at=keys.integer("valid_until", 0, 0, LATEST_TIME),
            keys_problem=keys.text("problem")[:LONGEST_PROBLEM],
            issuers_problem=keys.text("issuers_problem")[:LONGEST_PROBLEM],
            limited_by=fields.one_of("limited_by", "", ("", *SESSION_LIMITS)),
        )
        if not faults and len(name) <= LONGEST_NAME:
            found[name] = report
    return TenantReports(found, document.get("shared_state") != "unavailable")
