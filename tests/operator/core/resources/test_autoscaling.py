"""Tests of how a policy is read."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from avatar_operator.core.resources import autoscaling, cron
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from tests.operator.conftest import Make

ROOT = Path(__file__).parents[4]
DAILY: dict[str, Any] = {"name": "a", "start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 1}


def test_reserve_cost_rate_and_schedules_are_read(make: Make) -> None:
    free = {"min": 1, "percent": 2}
    policy = make.service(
        autoscaling={
            "maxReplicas": 4,
            "reserve": 2,
            "sharedReserve": True,
            "maxCostPerHour": "12.50",
            "rate": {"upPods": 3, "periodSeconds": 10},
            "schedules": [{**DAILY, "freeSessions": free, "reserve": 1, "timeZone": "Asia/Tokyo"}],
        }
    ).autoscaling
    assert policy is not None
    assert (policy.reserve, policy.shared_reserve) == (2, True)
    assert policy.max_cost_per_hour == Decimal("12.50")
    assert policy.rate == autoscaling.Rate(3, None, 10)
    start, end = cron.parse("0 8 * * *"), cron.parse("0 9 * * *")
    assert start is not None
    assert end is not None
    assert policy.schedules == (autoscaling.Schedule("a", start, end, "Asia/Tokyo", 1, 1, 2, 1),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reserve": -1}, "spec.autoscaling.reserve is -1, must be a whole number from 0 to 1000"),
        (
            {"minReplicas": 0, "reserve": 1, "scaleToZeroAfterSeconds": 9},
            "spec.autoscaling.reserve is 1, must be 0 if scaleToZeroAfterSeconds is set",
        ),
        ({"sharedReserve": "on"}, 'autoscaling.sharedReserve is "on", must be true or false'),
        ({"maxCostPerHour": "0"}, 'is "0", must be a positive decimal number in quotes'),
        ({"maxCostPerHour": 3}, "maxCostPerHour is 3, must be a positive decimal number in quotes"),
        ({"maxCostPerHour": "1" * 17}, "must be a positive decimal number in quotes"),
        ({"rate": {}}, "autoscaling.rate: at least one of upPods and downPods must be set"),
        ({"rate": {"upPods": 0}}, "rate.upPods is 0, must be a whole number from 1 to 1000"),
        (
            {"schedules": [{**DAILY, "start": "x"}]},
            'schedules[0].start is "x", must have five cron fields',
        ),
        ({"schedules": [{**DAILY, "start": None}]}, "schedules[0].start is missing"),
        (
            {"schedules": [{**DAILY, "end": "0 0 31 2 *"}]},
            'schedules[0].end is "0 0 31 2 *", must name a day that one of its months has',
        ),
        (
            {"schedules": [{**DAILY, "end": DAILY["start"]}]},
            "schedules[0]: start and end must be different",
        ),
        (
            {"schedules": [{**DAILY, "minReplicas": 5}]},
            "schedules[0].minReplicas is 5, must be less than or equal to maxReplicas, which is 4",
        ),
        (
            {"schedules": [{**DAILY, "minReplicas": None}]},
            "schedules[0]: at least one of minReplicas, freeSessions and reserve must be set",
        ),
        (
            {"schedules": [{**DAILY, "timeZone": "Europe/Atlantis"}]},
            'timeZone is "Europe/Atlantis", must be a name of the IANA time zone database',
        ),
        (
            {"schedules": [{**DAILY, "timeZone": "Europe"}]},
            'timeZone is "Europe", must be a name of the IANA time zone database',
        ),
        (
            {"schedules": [{**DAILY, "name": "A"}]},
            'schedules[0].name is "A", must consist of at most 63 lowercase letters',
        ),
        (
            {"schedules": [DAILY, DAILY]},
            'schedules[1]: schedules must not contain duplicate names: "a"',
        ),
        (
            {"schedules": [{**DAILY, "name": f"a{index}"} for index in range(17)]},
            "schedules must have at most 16 items, has 17",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_names_field_value_and_limit(
    make: Make, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidResource) as caught:
        make.service(autoscaling={"maxReplicas": 4, **changes})
    assert said in str(caught.value)


def test_omitted_fields_have_the_defaults_of_the_schema(make: Make) -> None:
    policy = make.service(autoscaling={"maxReplicas": 4}).autoscaling
    assert policy is not None
    crd = yaml.safe_load((ROOT / "crds" / "avatarservices.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields = schema["properties"]["autoscaling"]["properties"]
    free = fields["freeSessions"]["properties"]
    assert policy.min_replicas == fields["minReplicas"]["default"] == 1
    assert policy.free_min == free["min"]["default"] == 1
    assert policy.free_percent == free["percent"]["default"] == 20
    assert policy.down_after_s == fields["scaleDownAfterSeconds"]["default"] == 120


@pytest.mark.parametrize(
    ("seconds", "valid"), [(0, True), (86_400, True), (-1, False), (86_401, False)]
)
def test_a_scale_down_waits_from_nothing_to_a_day(make: Make, seconds: int, valid: bool) -> None:
    wanted = {"maxReplicas": 4, "scaleDownAfterSeconds": seconds}
    if valid:
        policy = make.service(autoscaling=wanted).autoscaling
        assert policy is not None
        assert policy.down_after_s == seconds
    else:
        with pytest.raises(InvalidResource, match="scaleDownAfterSeconds"):
            make.service(autoscaling=wanted)


@pytest.mark.parametrize(
    ("path", "largest"),
    [
        (("freeSessions", "min"), 10_000),
        (("freeSessions", "percent"), 500),
        (("scaleDownAfterSeconds",), 86_400),
    ],
)
def test_a_policy_accepts_the_largest_value_and_nothing_above(
    make: Make, path: tuple[str, ...], largest: int
) -> None:
    def policy(value: int) -> Any:
        fields: Any = value
        for name in reversed(path):
            fields = {name: fields}
        return make.service(autoscaling={"maxReplicas": 4, **fields}).autoscaling

    assert policy(largest) is not None
    with pytest.raises(InvalidResource, match=f"{path[-1]} is {largest + 1}"):
        policy(largest + 1)
