"""`spec.autoscaling` of an AvatarService: its types and its parser."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from avatar_operator import names
from avatar_operator.core.resources import annotations as annotation_rules
from avatar_operator.core.resources import cron
from avatar_operator.core.resources.cron import Cron

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fields

MAX_REPLICAS: Final = 1000
MAX_SCHEDULES: Final = 16
MAX_FREE: Final = 10_000
MAX_PERCENT: Final = 500
DAY_S: Final = 86400
COST: Final = r"^(?=.*[1-9])[0-9]+(\.[0-9]+)?$"
COST_LIMIT: Final = 'a positive decimal number in quotes, for example "12.50"'
ZONE: Final = r"^(?=.{1,64}$)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*$"
_LABEL: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LABEL_LIMIT: Final = (
    "must consist of at most 63 lowercase letters, digits and '-', and must start and end with a "
    "letter or digit"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Minimums that apply from each time of `start` to the next time of `end`; None: unchanged."""

    name: str
    start: Cron
    end: Cron
    time_zone: str
    min_replicas: int | None = None
    free_min: int | None = None
    free_percent: int | None = None
    reserve: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """How much the number of pods may change within a period; None: without a limit."""

    up_pods: int | None
    down_pods: int | None
    period_s: float


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """The bounds of the number of pods, and how the operator chooses within them."""

    min_replicas: int
    max_replicas: int
    free_min: int = 1
    """Minimum number of free slots."""
    free_percent: int = 20
    """Minimum number of free slots, as a percentage of the sessions."""
    down_after_s: float = 120
    """Length of the stabilization window, in seconds."""
    zero_after_s: float | None = None
    """Seconds without a session until the last pod is removed; None: it stays."""
    freeze: bool = False
    """Whether the number of pods must not change (annotation)."""
    pause_scale_in: bool = False
    """Whether the number of pods must not go down (annotation)."""
    reserve: int = 0
    """Additional pods that have loaded the model and are empty."""
    shared_reserve: bool = False
    """Whether the reserve is shared with services of the namespace that have equal pods."""
    max_cost_per_hour: Decimal | None = None
    """None: without a limit."""
    rate: Rate | None = None
    """None: without a limit."""
    schedules: tuple[Schedule, ...] = ()


def parse(spec: Fields, annotations: Mapping[str, str]) -> Autoscaling:
    """Return the policy in `spec.autoscaling` and the annotations of a service."""
    fields = spec.child("autoscaling")
    fields.required("maxReplicas", f"a whole number from 1 to {MAX_REPLICAS}")
    low = fields.integer("minReplicas", 1, 0, MAX_REPLICAS)
    high = fields.integer("maxReplicas", MAX_REPLICAS, 1, MAX_REPLICAS)
    if low > high:
        limit = f"less than or equal to maxReplicas, which is {high}"
        fields.add_fault("minReplicas", low, limit)
    reserve = fields.integer("reserve", 0, 0, MAX_REPLICAS)
    zero_after_s = fields.optional_integer("scaleToZeroAfterSeconds", 1, DAY_S)
    if zero_after_s is not None and low:
        limit = "must not be set unless minReplicas is 0"
        fields.add_fault("scaleToZeroAfterSeconds", zero_after_s, limit)
    if zero_after_s is not None and reserve:
        fields.add_fault("reserve", reserve, "0 if scaleToZeroAfterSeconds is set")
    free = fields.child("freeSessions")
    cost = fields.text("maxCostPerHour", pattern=rf"(?=^.{{1,16}}$){COST}", limit=COST_LIMIT)
    return Autoscaling(
        min_replicas=low,
        max_replicas=high,
        free_min=free.integer("min", 1, 0, MAX_FREE),
        free_percent=free.integer("percent", 20, 0, MAX_PERCENT),
        down_after_s=fields.integer("scaleDownAfterSeconds", 120, 0, DAY_S),
        zero_after_s=zero_after_s,
        freeze=annotation_rules.flag(annotations, names.ANNOTATION_FREEZE),
        pause_scale_in=annotation_rules.flag(annotations, names.ANNOTATION_PAUSE_SCALE_IN),
        reserve=reserve,
        shared_reserve=fields.flag("sharedReserve", False),
        max_cost_per_hour=Decimal(cost) if cost else None,
        rate=_rate(fields) if fields.has("rate") else None,
        schedules=_schedules(fields, high),
    )


def document(policy: Autoscaling) -> dict[str, object]:
    """Return the policy in the form of `spec.autoscaling`, without the annotations."""
    rate = policy.rate
    return _given(
        minReplicas=policy.min_replicas,
        maxReplicas=policy.max_replicas,
        freeSessions={"min": policy.free_min, "percent": policy.free_percent},
        scaleDownAfterSeconds=policy.down_after_s,
        scaleToZeroAfterSeconds=policy.zero_after_s,
        reserve=policy.reserve,
        sharedReserve=policy.shared_reserve or None,
        maxCostPerHour=policy.max_cost_per_hour and str(policy.max_cost_per_hour),
        rate=rate
        and _given(upPods=rate.up_pods, downPods=rate.down_pods, periodSeconds=rate.period_s),
        schedules=[
            _given(
                name=each.name,
                start=each.start.text,
                end=each.end.text,
                timeZone=each.time_zone,
                minReplicas=each.min_replicas,
                freeSessions=_given(min=each.free_min, percent=each.free_percent) or None,
                reserve=each.reserve,
            )
            for each in policy.schedules
        ],
    )


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _rate(fields: Fields) -> Rate:
    rate = fields.child("rate")
    up = rate.optional_integer("upPods", 1, MAX_REPLICAS)
    down = rate.optional_integer("downPods", 1, MAX_REPLICAS)
    if up is None and down is None:
        fields.add_rule("rate", "at least one of upPods and downPods must be set")
    return Rate(up, down, rate.integer("periodSeconds", 60, 1, 3600))


def _schedules(fields: Fields, most: int) -> tuple[Schedule, ...]:
    found = [_schedule(each, most) for each in fields.children("schedules")]
    if len(found) > MAX_SCHEDULES:
        fields.add_rule("schedules", f"must have at most {MAX_SCHEDULES} items, has {len(found)}")
    for index, schedule in enumerate(found):
        if schedule.name in (other.name for other in found[:index]):
            fields.add_duplicate("schedules", index, schedule.name)
    return tuple(found)


def _schedule(fields: Fields, most: int) -> Schedule:
    fields.required("name", _LABEL_LIMIT)
    free = fields.child("freeSessions")
    low = fields.optional_integer("minReplicas", 0, MAX_REPLICAS)
    if low is not None and low > most:
        limit = f"less than or equal to maxReplicas, which is {most}"
        fields.add_fault("minReplicas", low, limit)
    schedule = Schedule(
        name=fields.text("name", pattern=_LABEL, limit=_LABEL_LIMIT),
        start=_cron(fields, "start"),
        end=_cron(fields, "end"),
        time_zone=_zone(fields),
        min_replicas=low,
        free_min=free.optional_integer("min", 0, MAX_FREE),
        free_percent=free.optional_integer("percent", 0, MAX_PERCENT),
        reserve=fields.optional_integer("reserve", 0, MAX_REPLICAS),
    )
    if fields.has("start") and fields.raw("start") == fields.raw("end"):
        fields.add_rule(None, "start and end must be different")
    if not any(fields.has(name) for name in ("minReplicas", "freeSessions", "reserve")):
        fields.add_rule(None, "at least one of minReplicas, freeSessions and reserve must be set")
    return schedule


def _cron(fields: Fields, name: str) -> Cron:
    fields.required(name, cron.LIMIT)
    read = cron.parse(fields.text(name, _MIDNIGHT))
    if read is None:
        fields.add_fault(name, fields.raw(name), cron.LIMIT)
    elif not read.exists:
        fields.add_fault(name, fields.raw(name), "must name a day that one of its months has")
    return read or _PLACEHOLDER


def _zone(fields: Fields) -> str:
    name = fields.text("timeZone", "UTC", pattern=ZONE, limit=_ZONE_LIMIT)
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder of the database
        fields.add_fault("timeZone", name, _ZONE_LIMIT)
        return "UTC"
    return name


_ZONE_LIMIT: Final = "a name of the IANA time zone database, for example Europe/Berlin"
_MIDNIGHT: Final = "0 0 * * *"
_PLACEHOLDER: Final = Cron((0,), (0,), (1,), (1,), (0,), either=False)
"""Value of an expression that cannot be parsed; the fault is recorded."""
