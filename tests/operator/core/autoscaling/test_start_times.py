"""How long pods take to start: which starts count, what they say, and their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.fields import Fields
from avatar_operator.core.autoscaling import capacity, start_times
from avatar_operator.core.autoscaling.capacity import DEFAULT_START_S, MIN_STARTS, Offer
from avatar_operator.core.autoscaling.start_times import (
    KEPT,
    MAX_CLASSES,
    MAX_S,
    MIN_S,
    ClassStarts,
    PodStart,
    Starts,
)
from avatar_operator.core.resources import pod_times
from avatar_operator.core.resources.pod_times import PodTimes
from avatar_operator.core.resources.state import PodState, parse_state

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.pod import RuntimePod

MEASURED = {"process": 1.5, "weights": 4.0, "avatars": 0.5, "warm_up": 2.0}
LOAD = {"capacity": 4, "sessions": 0, "free": 4, "draining": False, "ready": True}


def state(**seconds: Any) -> PodState:
    return parse_state({**LOAD, "start": {"stage": "ready", "seconds": seconds or MEASURED}}, 0.0)


def pod(make: Make, name: str = "p0", **changes: Any) -> RuntimePod:
    times = PodTimes(101.0, 103.0, 9.0, 112.0, 121.0)
    return replace(
        make.pod(name), **{"ready": True, "created_at": 100.0, "times": times, **changes}
    )


def test_a_pod_that_becomes_ready_counts_once_with_its_stages(make: Make) -> None:
    starting = pod(make, ready=False)
    known, started = start_times.observe(Starts(), [starting], {})
    assert started == ()
    ready = pod(make)
    known, (start,) = start_times.observe(known, [ready], {ready.uid: state()})
    assert start.seconds == {
        "scheduled": 1.0,
        "image": 2.0,
        "download": 9.0,
        "process": 1.5,
        "weights": 4.0,
        "avatars": 0.5,
        "warmUp": 2.0,
        "total": 21.0,
    }
    assert known.classes[ready.gpu_class].totals == (21.0,)
    known, started = start_times.observe(known, [ready], {ready.uid: state()})
    assert started == ()


def test_a_pod_waits_for_its_first_state(make: Make) -> None:
    known, _ = start_times.observe(Starts(), [pod(make, ready=False)], {})
    ready = pod(make)
    known, started = start_times.observe(known, [ready], {})
    assert started == ()
    _, started = start_times.observe(known, [ready], {ready.uid: state()})
    assert len(started) == 1


def test_what_is_not_a_start_does_not_count(make: Make) -> None:
    ready = pod(make)
    states = {ready.uid: state()}
    _, started = start_times.observe(Starts(), [ready], states)
    assert started == ()  # it was ready before this replica saw it
    known, _ = start_times.observe(Starts(), [ready], states)
    known, _ = start_times.observe(known, [pod(make, ready=False)], states)
    known, started = start_times.observe(known, [ready], states)
    assert started == ()  # it was not ready for a moment
    known, _ = start_times.observe(Starts(), [pod(make, ready=False)], {})
    known, started = start_times.observe(known, [pod(make, restarts=1)], states)
    assert started == ()
    assert known.waiting == frozenset()


def test_the_sentence_names_every_known_stage(make: Make) -> None:
    ready = pod(make)
    start = PodStart("p0", "rtx-4090", start_times.stages(ready, state()))
    assert start_times.describe(start) == (
        "pod p0 started on rtx-4090 in 21.0 s: scheduling 1.0 s, volumes and image 2.0 s, model "
        "download 9.0 s, process 1.5 s, weights 4.0 s, avatars 0.5 s, warm-up 2.0 s"
    )
    other = PodStart("p1", "l4", {"total": 30.0})
    assert start_times.describe_all([start, other]) == (
        "2 pods started; the slowest: pod p1 started on l4 in 30.0 s"
    )
    assert start_times.describe(PodStart("p2", "l4", {})) == "pod p2 started on l4"


def test_the_status_is_read_back_as_one_start_per_class(make: Make) -> None:
    start = PodStart("p0", "rtx-4090", {"total": 21.04, "weights": 4.0})
    starts = Starts(classes=start_times.merged({}, [start]))
    (document,) = start_times.to_status(starts)
    assert document == {
        "gpuClass": "rtx-4090",
        "count": 1,
        "p90Seconds": 21.0,
        "lastPod": "p0",
        "lastSeconds": {"weights": 4.0, "total": 21.04},
    }
    read = start_times.read_status({"starts": [document, {"gpuClass": "l4"}, 3, {}]})
    assert read.classes == {"rtx-4090": ClassStarts((21.0,))}
    assert start_times.p90_by_class(read.classes) == {"rtx-4090": 21.0}


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200))
def test_the_percentile_is_within_its_bounds_and_memory_is_bounded(totals: list[float]) -> None:
    started = [PodStart("p", "l4", {"total": total}) for total in totals]
    known = start_times.merged({}, started)["l4"]
    assert MIN_S <= known.p90_s <= MAX_S
    assert len(known.totals) <= KEPT
    assert known.totals == tuple(totals[-KEPT:])
    inside = [min(MAX_S, max(MIN_S, total)) for total in known.totals]
    assert sum(total <= known.p90_s for total in inside) >= 0.9 * len(inside)


def test_the_number_of_classes_is_bounded() -> None:
    started = [PodStart("p", f"class-{n}", {"total": 1.0}) for n in range(2 * MAX_CLASSES)]
    assert len(start_times.merged({}, started)) == MAX_CLASSES


@given(
    own=st.lists(st.floats(0.1, 1200), max_size=2 * MIN_STARTS),
    measured=st.none() | st.floats(MIN_S, MAX_S),
)
def test_a_measured_start_replaces_the_guess(own: list[float], measured: float | None) -> None:
    estimate = capacity.estimate_start(own, measured)
    if len(own) >= MIN_STARTS:
        assert estimate == capacity.estimate_start(own)
    elif own or measured is not None:
        assert estimate.mean_s == max([*own, *([] if measured is None else [measured])])
    else:
        assert estimate.mean_s == DEFAULT_START_S
    assert capacity.overdue_s([], own, measured) == float("inf")


def test_the_class_of_the_next_pod_counts() -> None:
    offers = [Offer("full", 4, 0, None, 9.0), Offer("free", 4, 2, None, 60.0), Offer("l4", 4, 1)]
    assert capacity.measured_start_s(offers) == 60.0
    assert capacity.measured_start_s(offers[2:]) is None
    assert capacity.measured_start_s([]) is None


def test_times_come_from_conditions_and_container_states() -> None:
    def at(second: int) -> str:
        return f"1970-01-01T00:01:{second:02}Z"

    def condition(name: str, second: int, status: str = "True") -> dict[str, Any]:
        return {"type": name, "status": status, "lastTransitionTime": at(second)}

    ended = {"terminated": {"exitCode": 0, "startedAt": at(5), "finishedAt": at(15)}}
    status = {
        "conditions": [condition("PodScheduled", 1), condition("Ready", 30)],
        "initContainerStatuses": [
            {"name": "istio-init", "state": {"running": {"startedAt": at(3)}}},
            {"name": "cache-models", "state": ended},
        ],
        "containerStatuses": [
            {"name": "other", "state": {"running": {"startedAt": at(16)}}},
            {"name": "runtime", "state": {"running": {"startedAt": at(17)}}},
        ],
    }
    assert pod_times.parse(Fields(status, "status", [])) == PodTimes(61.0, 63.0, 10.0, 77.0, 90.0)
    unready = {"conditions": [condition("Ready", 30, "False")], "containerStatuses": [{}]}
    assert pod_times.parse(Fields(unready, "status", [])) == PodTimes()


def test_wrong_stages_of_a_pod_are_left_out() -> None:
    found = state(process=-1, weights="3", avatars=True, warm_up=float("nan"), other=1.0)
    assert found.start_s == {}
    assert parse_state({**LOAD, "start": 3}, 0.0).start_s == {}
    assert parse_state(LOAD, 0.0).start_s == {}
