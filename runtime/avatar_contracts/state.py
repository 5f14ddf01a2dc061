"""The lines of the state streams: their keys, their parser and the age limit of a state.

A runtime pod and a gateway each serve `labels.STATE_PATH`. With `?watch=1` they send one JSON
object a line, at each change, at most every `LINE_SPACING_S` and at least every `LINE_AGE_S`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from avatar_contracts.rate_limit import Rate

LINE_SPACING_S: Final = 0.1
LINE_AGE_S: Final = 1.0
STALE_S: Final = 3.5
"""A state that is older says nothing. The operator opens a stream that was silent for 3 s again,
and half a second is left for the first line of the new stream."""
POD_RATE: Final = Rate(frames_per_s=2 / LINE_SPACING_S, bytes_per_s=1 << 16)
"""How fast the stream of a runtime pod is read: twice the lines of the contract, and six times the
bytes of lines of 1 KiB. The author of a service chooses the image, and so what its pods send."""
GATEWAY_RATE: Final = Rate(frames_per_s=2 / LINE_SPACING_S, bytes_per_s=1 << 24)
"""How fast the stream of a gateway is read, whose lines have all services."""
LONGEST_PAUSE_S: Final = 2.0
"""The longest time for which a stream that is too fast is not read: its state stays fresh."""
_SEQUENCE: Final = re.compile(rb'"sequence": ?[0-9]{1,18}')
HIGHEST_COUNT: Final = 10**6
"""Of sessions in one pod; more is a fault."""


class Vram(TypedDict):
    """The memory of the device, of all its processes."""

    used_bytes: int
    total_bytes: int
    ratio: float


class LatencyMs(TypedDict):
    """Recent latencies in milliseconds; `None` without recent frames."""

    first_frame_p95: float | None
    frame_p95: float | None


StartStage = Literal["process", "weights", "avatars", "warm_up"]
"""Stages of the start of a runtime, in their order: until the process loads the model, then the
weights, the avatars, and the first batches on the device."""
START_STAGES: Final[tuple[StartStage, ...]] = ("process", "weights", "avatars", "warm_up")
LONGEST_STAGE_S: Final = 86_400.0


class StartDocument(TypedDict):
    """How far the start of a runtime is, and how long its stages took."""

    stage: str
    """The current one of `START_STAGES`, or `ready`."""
    seconds: Mapping[StartStage, float]
    """Seconds of each complete stage, by its name."""


class StateDocument(TypedDict):
    """What a runtime pod reports."""

    pod: str
    service: str
    gpu_class: str
    batch_size: int
    batch_limit: int
    capacity: int
    sessions: int
    speaking: int
    free: int
    draining: bool
    ready: bool
    vram: Vram
    latency_ms: LatencyMs
    deadline_miss_ratio: float
    batch_fill_ratio: float
    device: str
    calibration: Mapping[str, Any] | None
    start: StartDocument
    sequence: int


class ServiceDemand(TypedDict):
    """What a gateway reports of the callers of one service."""

    sessions: int
    waiting: int
    arrivals_per_s: float
    arrivals_total: int
    rejected_total: int


SharedStateName = Literal["ok", "unavailable", "none"]


class TenantKeys(TypedDict):
    """The credentials of a tenant, as a gateway sees them."""

    valid: int
    """API keys that are accepted now."""
    valid_until: int
    """When the last of them ends, seconds since 1970; 0 if one of them has no end."""
    problem: str
    """Why an API key cannot be used; empty if all can."""
    issuers_problem: str
    """Why the key set of an issuer cannot be fetched; empty if all can."""


class TenantDemand(TypedDict):
    """What a gateway reports of the callers of one tenant."""

    sessions: int
    """Of this gateway."""
    waiting: int
    """Of this gateway."""
    seconds_this_month: int
    """Of sessions at all gateways, in the calendar month (UTC)."""
    keys: TenantKeys
    limited_by: str
    """The limit that refuses callers now: `sessions`, `sessionsPerService` or `minutesPerMonth`;
    empty if none does."""


class DemandDocument(TypedDict):
    """What a gateway reports."""

    pod: str
    services: Mapping[str, ServiceDemand]
    """By `NAMESPACE/NAME`."""
    tenants: Mapping[str, TenantDemand]
    """By the name of the AvatarTenant."""
    shared_state: SharedStateName
    """Whether the gateways count together; `none` if there is no shared state."""
    sequence: int


@dataclass(frozen=True, slots=True)
class StateFault:
    """A key of a line that is missing or wrong."""

    key: str
    value: object
    """`None` if it is missing."""
    limit: str


@dataclass(frozen=True, slots=True)
class Load:
    """The part of a state that decides on sessions; every line must have all of it."""

    capacity: int
    sessions: int
    free: int
    draining: bool
    ready: bool


def parse_start(document: Mapping[str, object]) -> Mapping[StartStage, float]:
    """Return the seconds of the complete stages of a start; what is missing or wrong is left out.

    Pods of earlier releases, and images of others, report none.
    """
    start = document.get("start")
    seconds = start.get("seconds") if isinstance(start, Mapping) else None
    if not isinstance(seconds, Mapping):
        return {}
    return {
        stage: float(value)
        for stage in START_STAGES
        if isinstance(value := seconds.get(stage), int | float)
        and not isinstance(value, bool)
        and 0 <= value <= LONGEST_STAGE_S
    }


def content_hash(line: bytes | bytearray) -> int:
    """Return a hash of a line without its sequence number, 64 bits with a secret of this process.

    The number counts the lines of a stream. A line with the same hash as the one before says
    nothing new, and need not be parsed.
    """
    return hash(_SEQUENCE.sub(b"", bytes(line), count=1))


def parse_load(document: Mapping[str, object]) -> Load | tuple[StateFault, ...]:
    """Return the load in a line of a runtime pod, or every fault of it."""
    faults: list[StateFault] = []
    load = Load(
        capacity=_count(document, "capacity", faults),
        sessions=_count(document, "sessions", faults),
        free=_count(document, "free", faults),
        draining=_flag(document, "draining", faults),
        ready=_flag(document, "ready", faults),
    )
    if not faults and load.free > load.capacity:
        faults.append(StateFault("free", load.free, f"no more than capacity, {load.capacity}"))
    return tuple(faults) or load


def _count(document: Mapping[str, object], key: str, faults: list[StateFault]) -> int:
    value = document.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= HIGHEST_COUNT:
        return value
    faults.append(StateFault(key, value, f"a whole number from 0 to {HIGHEST_COUNT}"))
    return 0


def _flag(document: Mapping[str, object], key: str, faults: list[StateFault]) -> bool:
    value = document.get(key)
    if not isinstance(value, bool):
        faults.append(StateFault(key, value, "true or false"))
    return value is True
