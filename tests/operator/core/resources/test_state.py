"""The figures of a pod's state, their bounds and their defaults."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from avatar_operator.core.resources import gateway
from avatar_operator.core.resources.state import PodState, parse_state
from avatar_operator.errors import InvalidResource

LOAD = {"sessions": 1, "capacity": 3, "free": 2, "draining": False, "ready": True}


def read(**given: Any) -> PodState:
    return parse_state({**LOAD, **given}, 0.5)


def test_a_state_without_figures_has_defaults() -> None:
    assert read() == PodState(1, 3, 2, draining=False, ready=True, age_s=0.5)
    state = PodState(1, 3, 2, draining=False, ready=True, age_s=0.5)
    assert (state.device, state.calibration, state.vram_ratio) == ("", None, 0.0)
    assert (state.deadline_miss_ratio, state.batch_share, state.empty_s) == (0.0, 1.0, 0.0)
    assert state.frame_p95_ms is state.first_frame_p95_ms is None


@pytest.mark.parametrize(
    ("value", "figure"),
    [(0, 0.0), (0.25, 0.25), (7, 7.0), (-0.1, None), (inf, None), (nan, None), (True, None),
     ("1", None)],
)  # fmt: skip
def test_a_wrong_figure_counts_as_none(value: object, figure: float | None) -> None:
    found = read(
        vram={"ratio": value},
        deadline_miss_ratio=value,
        latency_ms={"frame_p95": value, "first_frame_p95": 5},
    )
    assert (found.frame_p95_ms, found.first_frame_p95_ms) == (figure, 5.0)
    assert (found.vram_ratio, found.deadline_miss_ratio) == (figure or 0.0, figure or 0.0)


@pytest.mark.parametrize(
    ("value", "figure"), [(0, 0.0), (1, 1.0), (-1, None), (nan, None), (True, None), ("1", None)]
)
def test_the_first_frame_is_informational(value: object, figure: float | None) -> None:
    assert read(latency_ms={"first_frame_p95": value}).first_frame_p95_ms == figure


@pytest.mark.parametrize(
    ("size", "limit", "share"),
    [
        (8, 4, 0.5),
        (8, 8, 1.0),
        (8, 9, 1.0),
        (8, 0, 0.0),
        (0, 4, 1.0),
        (None, 4, 1.0),
        (8, None, 1.0),
    ],
)
def test_the_share_of_the_batch_is_at_most_one(size: object, limit: object, share: float) -> None:
    assert read(batch_size=size, batch_limit=limit).batch_share == share


def test_a_measurement_is_made_rising() -> None:
    measured = {
        "model": "v15",
        "baseMiB": 100,
        "perFrameMiB": 0,
        "frameBatchMs": [[1, 5.0], [2, 4.5], "x", [4, 9.0], [8, 8.0]],
    }
    curve = read(calibration=measured).calibration
    assert curve is not None
    assert curve.frame_batch_ms == ((1, 5.0), (2, 5.0), (4, 9.0), (8, 9.0))
    assert (curve.model, curve.base_mib, curve.per_frame_mib) == ("v15", 100, 1)
    for wrong in (None, 7, {}, {**measured, "frameBatchMs": {}}, {**measured, "baseMiB": 0}):
        assert read(calibration=wrong).calibration is None


def test_a_wrong_state_names_its_pod_and_each_key() -> None:
    with pytest.raises(InvalidResource) as error:
        parse_state({"pod": "p0"}, 0.0)
    assert (error.value.kind, error.value.name) == ("state of pod", "p0")
    assert len(error.value.faults) > 1
    with pytest.raises(InvalidResource) as error:
        parse_state({**LOAD, "device": 7}, 0.0)
    assert str(error.value) == "state of pod ?: device is 7, must be a string"


def demand(**counts: object) -> gateway.Callers:
    (found,) = gateway.parse_demand({"services": {"a/b": counts}}).values()
    return found


@pytest.mark.parametrize("count", [0, 1, 2**53])
def test_counts_of_a_gateway_have_53_bits(count: int) -> None:
    assert demand(waiting=count, arrivals_total=count) == gateway.Callers(count, count)
    assert demand() == gateway.Callers(0, 0)


@pytest.mark.parametrize("field", ["waiting", "arrivals_total"])
@pytest.mark.parametrize("count", [-1, 2**53 + 1])
def test_other_counts_of_a_gateway_are_faults(field: str, count: int) -> None:
    with pytest.raises(InvalidResource) as error:
        gateway.parse_demand({"services": {"a/b": {field: count}}, "pod": "gw-1"})
    limit = f"must be a whole number from 0 to {2**53}"
    assert str(error.value) == f"state of gateway gw-1: services.a/b.{field} is {count}, {limit}"
