"""The state document that a runtime pod reports: its type and its parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from avatar_contracts.fields import Fault, Fields
from avatar_contracts.state import Load, StartStage, parse_load, parse_start
from avatar_operator.core.resources.gpu_profile import Curve, parse_curve, parse_point
from avatar_operator.errors import InvalidResource


@dataclass(frozen=True, slots=True)
class PodState:
    """The last state document of a runtime pod, and its age."""

    sessions: int
    capacity: int
    free: int
    draining: bool
    ready: bool
    age_s: float
    device: str = ""
    """Empty if the document does not name it."""
    calibration: Curve | None = None
    vram_ratio: float = 0.0
    deadline_miss_ratio: float = 0.0
    frame_p95_ms: float | None = None
    """None if no session spoke recently."""
    batch_share: float = 1.0
    """The batch limit as a share of the batch size; less than 1 under memory pressure."""
    empty_s: float = 0.0
    """For how long the pod is known to have no session."""
    first_frame_p95_ms: float | None = None
    """None if no session spoke recently."""
    start_s: Mapping[StartStage, float] = field(default_factory=dict)
    """Seconds of the stages of its start that the runtime has measured."""


def parse_state(document: Mapping[str, object], age_s: float) -> PodState:
    """Return the state that a runtime pod sent `age_s` ago.

    Raises:
        InvalidResource: with every key that is missing or wrong.
    """
    faults: list[Fault] = []
    state = Fields(document, "", faults)
    load = parse_load(document)
    if not isinstance(load, Load):
        for fault in load:
            state.add_fault(fault.key, fault.value, fault.limit)
        raise InvalidResource("state of pod", state.text("pod", "?"), faults)
    parsed = PodState(
        sessions=load.sessions,
        capacity=load.capacity,
        free=load.free,
        draining=load.draining,
        ready=load.ready,
        age_s=age_s,
        first_frame_p95_ms=_first_frame(state.child("latency_ms")),
        device=state.text("device"),
        calibration=_measurement(state.raw("calibration")),
        vram_ratio=_number(state.child("vram").raw("ratio")) or 0.0,
        deadline_miss_ratio=_number(state.raw("deadline_miss_ratio")) or 0.0,
        frame_p95_ms=_number(state.child("latency_ms").raw("frame_p95")),
        batch_share=_batch_share(state),
        start_s=parse_start(document),
    )
    if faults:
        raise InvalidResource("state of pod", state.text("pod", "?"), faults)
    return parsed


def _number(value: object) -> float | None:
    """Return a figure of a state, or None if it is not a valid figure: it is optional."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        return None
    return float(value)


def _batch_share(state: Fields) -> float:
    whole, limit = _number(state.raw("batch_size")), _number(state.raw("batch_limit"))
    return min(1.0, limit / whole) if whole and limit is not None else 1.0


def _measurement(document: object) -> Curve | None:
    """Return the curve that a pod measured, or None if it is invalid and the state is used alone.

    Times that fall a little from one batch size to the next are noise of the measurement: each
    counts as the highest time so far. A frame that takes no memory counts as 1 MiB. Both make a
    plan more careful, never less.
    """
    faults: list[Fault] = []
    if not isinstance(document, Mapping) or not isinstance(document.get("frameBatchMs"), list):
        return None
    rising: list[object] = []
    slowest = 0.0
    for point in map(parse_point, document["frameBatchMs"]):
        if point is not None:
            slowest = max(slowest, point[1])
            rising.append([point[0], slowest])
    per_frame = document.get("perFrameMiB") or 1
    read = {**document, "frameBatchMs": rising, "perFrameMiB": per_frame}
    curve = parse_curve(Fields(read, "calibration", faults))
    return None if faults else curve


def _first_frame(latency: Fields) -> float | None:
    value = latency.raw("first_frame_p95")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None  # informational: the rest of the state is used
    return float(value)
