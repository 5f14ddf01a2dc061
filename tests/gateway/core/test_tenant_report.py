from __future__ import annotations

import pytest

from avatar_gateway.core.leases import Usage
from avatar_gateway.core.tenant_report import limited_by, report
from avatar_gateway.core.tenants import AtMonthlyLimit, TenantLimits


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(TenantLimits(), "", id="unlimited"),
        pytest.param(TenantLimits(sessions=4), "", id="below"),
        pytest.param(TenantLimits(sessions=3), "sessions", id="sessions"),
        pytest.param(TenantLimits(sessions=0), "sessions", id="none"),
        pytest.param(TenantLimits(sessions_per_service=2), "sessionsPerService", id="service"),
        pytest.param(TenantLimits(sessions_per_service=3), "", id="below-service"),
        pytest.param(TenantLimits(minutes_per_month=2), "minutesPerMonth", id="month"),
        pytest.param(
            TenantLimits(minutes_per_month=2, at_monthly_limit=AtMonthlyLimit.REPORT),
            "",
            id="only-reported",
        ),
        pytest.param(TenantLimits(sessions=3, minutes_per_month=1), "minutesPerMonth", id="both"),
    ],
)
def test_the_limit_that_refuses_callers_is_named(limits: TenantLimits, expected: str) -> None:
    usage = Usage(3, {"a/b": 2, "a/c": 1}, 120_000)
    assert limited_by(limits, usage) == expected


def test_the_entry_of_a_tenant() -> None:
    usage = Usage(3, {}, 61_900)
    assert report(1, 2, {"valid": 1, "problem": ""}, TenantLimits(), usage) == {
        "sessions": 1,
        "waiting": 2,
        "seconds_this_month": 61,
        "keys": {"valid": 1, "problem": ""},
        "limited_by": "",
    }
