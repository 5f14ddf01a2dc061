"""The status of a tenant: sums of gateways, conditions in plain words, no needless writes."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.resources.tenant_report import TenantReport, parse_tenants
from avatar_operator.core.status import tenant_status
from avatar_operator.core.status.tenant_status import TenantUse

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make

NOW = 1_800_000_000.0
KEYS: dict[str, Any] = {"apiKeys": {"secretRefs": [{"name": "keys"}]}}
JWT: dict[str, Any] = {"jwt": [{"issuer": "https://a.example", "audiences": ["a"]}]}
GOOD = TenantReport(valid_keys=2)
FRONT = ServiceKey("acme", "front")


def build(make: Make, use: TenantUse, previous: Body | None = None, **spec: Any) -> Body:
    return tenant_status.build(make.tenant(**spec), use, 3, previous or {}, NOW)


def condition(status: Body, kind: str) -> tuple[str, str, str]:
    conditions: Any = status["conditions"]
    (found,) = [each for each in conditions if each["type"] == kind]
    return found["status"], found["reason"], found["message"]


def test_gateways_are_summed_and_the_month_is_that_of_all(make: Make) -> None:
    reports = (TenantReport(3, 1, 61, valid_keys=2), TenantReport(4, 0, 59, valid_keys=2))
    use = TenantUse(reports, usable=2, owned=1, gpus=5, cost=Decimal("2.20"))
    status = build(make, use, **KEYS)
    assert (status["sessions"], status["waiting"], status["minutesThisMonth"]) == (7, 1, 2)
    assert (status["gpus"], status["costPerHour"], status["observedGeneration"]) == (5, "2.20", 3)
    said = "may use 2 AvatarServices, 1 of them alone"
    assert condition(status, "Ready") == ("True", "ServicesAvailable", said)
    assert condition(status, "KeysValid") == ("True", "KeysUsable", "2 keys can be used")
    assert condition(status, "QuotaExceeded")[:2] == ("False", "WithinLimits")


@pytest.mark.parametrize(
    ("spec", "use", "kind", "expected"),
    [
        (KEYS, TenantUse((GOOD,)), "Ready", ("False", "NoService", "no AvatarService matches")),
        ({}, TenantUse((GOOD,), usable=1), "Ready", ("False", "NoCredential", "neither spec.api")),
        (KEYS, TenantUse((TenantReport(),), usable=1), "Ready", ("False", "KeysUnusable", "no A")),
        ({}, TenantUse((GOOD,)), "KeysValid", ("True", "KeysNotConfigured", "spec.apiKeys is not")),
        (KEYS, TenantUse(), "KeysValid", ("Unknown", "GatewaysSilent", "no gateway has reported")),
        (
            KEYS,
            TenantUse((TenantReport(),)),
            "KeysValid",
            ("False", "KeysUnusable", "no key in 1 Secret of spec.apiKeys is valid"),
        ),
        (
            KEYS,
            TenantUse((GOOD, TenantReport(keys_problem="Secret keys/acme is missing"))),
            "KeysValid",
            ("False", "KeysUnusable", "Secret keys/acme is missing"),
        ),
        (
            KEYS,
            TenantUse((GOOD, TenantReport(valid_keys=1, keys_end_at=int(NOW) + 7 * 86_400))),
            "KeysValid",
            ("True", "KeysExpireSoon", "1 key can be used, none of them after 20"),
        ),
        (
            KEYS,
            TenantUse((TenantReport(valid_keys=1, keys_end_at=int(NOW) + 7 * 86_400 + 1),)),
            "KeysValid",
            ("True", "KeysUsable", "1 key can be used, none of them after 20"),
        ),
        (
            KEYS | JWT,
            TenantUse((TenantReport(valid_keys=2, issuers_problem="issuer a: away"),)),
            "KeysValid",
            ("True", "KeysUsable", "2 keys can be used"),
        ),
        (
            KEYS | JWT,
            TenantUse((GOOD, TenantReport(valid_keys=2, issuers_problem="issuer a: away"))),
            "IssuersAvailable",
            ("False", "KeySetsUnavailable", "issuer a: away"),
        ),
        (JWT, TenantUse((GOOD,)), "IssuersAvailable", ("True", "KeySetsFetched", "the key sets")),
        (JWT, TenantUse(), "IssuersAvailable", ("Unknown", "GatewaysSilent", "no gateway has")),
        (KEYS, TenantUse(), "IssuersAvailable", ("True", "IssuersNotConfigured", "spec.jwt is")),
        (
            {"limits": {"sessions": 3}},
            TenantUse((TenantReport(3, 2, limited_by="sessions"),)),
            "QuotaExceeded",
            ("True", "Sessions", "3 of 3 sessions are live, 2 callers wait"),
        ),
        (
            {"limits": {"sessionsPerService": 3}},
            TenantUse((TenantReport(3, 1, limited_by="sessionsPerService"),)),
            "QuotaExceeded",
            ("True", "SessionsPerService", "a service has 3 sessions of this tenant, 1 caller"),
        ),
        (
            {"limits": {"minutesPerMonth": 2}},
            TenantUse((TenantReport(seconds_this_month=61),)),
            "QuotaExceeded",
            ("True", "MinutesPerMonth", "2 of 2 minutes of this month are used"),
        ),
        (
            {"limits": {"gpus": 2}},
            TenantUse((GOOD,), gpus=2, limited=(FRONT, ServiceKey("acme", "back"))),
            "QuotaExceeded",
            ("True", "GPUs", "acme/front, acme/back want more pods; 2 of 2 GPUs are used"),
        ),
        (
            {"limits": {"costPerHour": "1.50"}},
            TenantUse((GOOD,), cost=Decimal("1.32"), limited=(FRONT,)),
            "QuotaExceeded",
            ("True", "CostPerHour", "acme/front wants more pods; 1.32 of 1.50 per hour are spent"),
        ),
        (
            {},
            TenantUse((GOOD,), know_each_other=False),
            "QuotaExceeded",
            ("Unknown", "SharedStateUnavailable", "a gateway does not know the sessions"),
        ),
    ],
    ids=[
        "no service", "no credential", "no valid key", "no keys", "silent", "empty Secret",
        "problem", "ends soon", "ends later", "issuer away, keys", "issuer away", "issuer",
        "issuer silent", "no issuer",
        "sessions", "per service", "minutes", "gpus", "cost", "shared state",
    ],
)  # fmt: skip
def test_a_condition_says_what_it_is_about(
    make: Make, spec: Any, use: TenantUse, kind: str, expected: tuple[str, str, str]
) -> None:
    status, reason, message = condition(build(make, use, **spec), kind)
    assert (status, reason) == expected[:2]
    assert message.startswith(expected[2])


def test_the_same_use_gives_the_same_status(make: Make) -> None:
    use = TenantUse((GOOD,), usable=1)
    first = build(make, use, **KEYS)
    assert tenant_status.build(make.tenant(**KEYS), use, 3, first, NOW + 60) == first


def test_only_conditions_are_urgent(make: Make) -> None:
    before = build(make, TenantUse((GOOD,), usable=1), **KEYS)
    more = build(make, TenantUse((TenantReport(9, valid_keys=2),), usable=1), before, **KEYS)
    assert not tenant_status.is_urgent(before, more)
    gone = build(make, TenantUse((GOOD,)), before, **KEYS)
    assert tenant_status.is_urgent(before, gone)
    assert tenant_status.is_urgent({}, before)


def test_a_wrong_tenant_keeps_its_figures_and_says_what_is_wrong() -> None:
    status = tenant_status.build_invalid("spec.weight is 0", 4, {"sessions": 2}, NOW)
    assert status["sessions"] == 2
    assert condition(status, "Ready") == ("False", "InvalidSpec", "spec.weight is 0")


@pytest.mark.parametrize(
    "reported",
    [
        7,
        {"sessions": -1},
        {"sessions": True},
        {"waiting": "2"},
        {"seconds_this_month": 10**13},
        {"keys": []},
        {"keys": {"valid": 1.5}},
        {"keys": {"valid_until": 10**15}},
        {"limited_by": "everything"},
    ],
    ids=["number", "negative", "flag", "text", "large", "list", "fraction", "time", "limit"],
)
def test_a_wrong_report_is_left_out(reported: object) -> None:
    found = parse_tenants({"tenants": {"acme": reported, "globex": {}, "a" * 64: {}}})
    assert found.tenants == {"globex": TenantReport()}


def test_a_long_problem_is_cut_and_an_older_gateway_reports_nothing() -> None:
    keys = {"valid": 0, "problem": "p" * 5000}
    assert len(parse_tenants({"tenants": {"a": {"keys": keys}}}).tenants["a"].keys_problem) == 1000
    assert parse_tenants({}).tenants == {}
    assert parse_tenants({"tenants": []}).tenants == {}
