from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.gpus import batch_size
from avatar_operator.core.gpus.batch_size import BatchPlan, LimitedBy, NoBatch
from avatar_operator.core.resources.gpu_profile import Curve
from avatar_operator.core.resources.service import Objective

if TYPE_CHECKING:
    from tests.operator.conftest import Make

FAST = ((1, 1.0), (64, 64.0))
# A 3090-class card, published as frames a second: 45.8 at batch 4, 48.7 at 8, 50.5 at 16.
PUBLISHED = ((4, 4000 / 45.8), (8, 8000 / 48.7), (16, 16000 / 50.5))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    sizes = draw(st.lists(st.integers(1, 80), min_size=1, max_size=6, unique=True).map(sorted))
    times = draw(
        st.lists(st.floats(0.5, 900), min_size=len(sizes), max_size=len(sizes)).map(sorted)
    )
    points = tuple(zip(sizes, times, strict=True))
    return Curve("m", draw(st.integers(1, 30000)), draw(st.integers(1, 3000)), points)


@pytest.mark.parametrize(
    ("memory_mib", "expected"),
    [pytest.param(24 * 1024, 16, id="24 GiB"), pytest.param(81920, 64, id="80 GiB")],
)
def test_published_memory_holds_the_published_batch(
    make: Make, memory_mib: int, expected: int
) -> None:
    curve = make.curve(base=4000, per_frame=1080, points=FAST)
    plan = batch_size.plan_batch(curve, memory_mib, Objective.THROUGHPUT, 25)
    assert isinstance(plan, BatchPlan)
    assert plan.batch_size == expected


def test_24_gib_do_not_hold_20_frames_of_the_published_server(make: Make) -> None:
    curve = make.curve(base=4000, per_frame=1080, points=FAST)
    refused = batch_size.fixed_batch(curve, 24 * 1024, 20, 25)
    assert refused == NoBatch(
        "spec.batchSize is 20 and needs 25600 MiB, 22118 of 24576 MiB are usable"
    )


@pytest.mark.parametrize(
    ("objective", "size", "limited_by"),
    [
        pytest.param(Objective.LATENCY, 4, LimitedBy.DEADLINE, id="latency"),
        pytest.param(Objective.BALANCED, 8, LimitedBy.DEADLINE, id="balanced"),
        pytest.param(Objective.THROUGHPUT, 16, LimitedBy.KNEE, id="throughput"),
    ],
)
def test_objectives_pick_from_the_published_curve(
    make: Make, objective: Objective, size: int, limited_by: LimitedBy
) -> None:
    plan = batch_size.plan_batch(make.curve(points=PUBLISHED), 24576, objective, 25)
    assert isinstance(plan, BatchPlan)
    assert (plan.batch_size, plan.limited_by) == (size, limited_by)


def test_a_batch_that_is_nearly_as_fast_as_the_best_is_enough(make: Make) -> None:
    curve = make.curve(points=((1, 20.0), (4, 40.0), (8, 78.0)))
    plan = batch_size.plan_batch(curve, 24576, Objective.LATENCY, 25)
    assert isinstance(plan, BatchPlan)
    assert (plan.batch_size, plan.limited_by) == (4, LimitedBy.KNEE)
    assert plan.reason == (
        "batch 4 reaches 85% of the best frames/s; 100.0 frames/s carry 3 sessions"
    )


def test_memory_is_named_when_it_stops_the_next_batch(make: Make) -> None:
    curve = make.curve(base=1000, per_frame=1000, points=FAST)
    plan = batch_size.plan_batch(curve, 10000, Objective.THROUGHPUT, 25)
    assert isinstance(plan, BatchPlan)
    assert (plan.batch_size, plan.limited_by) == (8, LimitedBy.MEMORY)
    assert "batch 12 would need 13000 of 9000 usable MiB" in plan.reason


@pytest.mark.parametrize(
    ("points", "memory_mib", "said"),
    [
        pytest.param(((3, 1.0),), 24576, "contains none of the batch sizes", id="no bucket"),
        pytest.param(((2, 1.0), (4, 2.0)), 1200, "needs 1200 MiB", id="memory"),
        pytest.param(((1, 150.0),), 24576, "takes 150 ms", id="deadline"),
    ],
)
def test_what_makes_every_batch_impossible_is_named(
    make: Make, points: tuple[tuple[int, float], ...], memory_mib: int, said: str
) -> None:
    outcome = batch_size.plan_batch(make.curve(points=points), memory_mib, Objective.LATENCY, 25)
    assert isinstance(outcome, NoBatch)
    assert said in outcome.reason


def test_a_slow_card_still_carries_one_session(make: Make) -> None:
    plan = batch_size.plan_batch(make.curve(points=((1, 90.0),)), 24576, Objective.LATENCY, 25)
    assert isinstance(plan, BatchPlan)
    assert plan.sessions_per_pod == 1


def test_a_fixed_batch_is_taken_as_it_is(make: Make) -> None:
    plan = batch_size.fixed_batch(make.curve(points=((1, 10.0), (8, 80.0))), 24576, 5, 20)
    assert isinstance(plan, BatchPlan)
    assert (plan.batch_size, plan.limited_by, plan.sessions_per_pod) == (5, LimitedBy.FIXED, 4)


def test_a_fixed_batch_outside_the_curve_is_refused(make: Make) -> None:
    refused = batch_size.fixed_batch(make.curve(points=((4, 10.0), (8, 80.0))), 24576, 2, 25)
    assert isinstance(refused, NoBatch)
    assert "spec.batchSize is 2, the curve of v15/sd-vae/fp16 covers 4 to 8" in refused.reason


@given(curves(), st.integers(1000, 200000), st.sampled_from(Objective), st.sampled_from([10, 25]))
def test_no_plan_exceeds_memory_or_deadline(
    curve: Curve, memory_mib: int, objective: Objective, fps: int
) -> None:
    plan = batch_size.plan_batch(curve, memory_mib, objective, fps)
    if isinstance(plan, NoBatch):
        fits = [
            b
            for b in batch_size.BUCKETS
            if curve.smallest <= b <= curve.largest
            and curve.memory_mib(b) <= 0.9 * memory_mib
            and curve.batch_ms(b) <= batch_size.LATENCY_BUDGET_MS[objective]
        ]
        assert fits == []
        return
    assert plan.batch_size in batch_size.BUCKETS
    assert plan.memory_mib <= 0.9 * memory_mib
    assert curve.batch_ms(plan.batch_size) <= batch_size.LATENCY_BUDGET_MS[objective]
    assert plan.sessions_per_pod == 1 or plan.sessions_per_pod * fps <= 0.9 * plan.frames_per_s


@given(curves(), st.integers(1000, 100000), st.integers(0, 100000), st.sampled_from(Objective))
def test_more_memory_never_makes_a_pod_slower(
    curve: Curve, memory_mib: int, more_mib: int, objective: Objective
) -> None:
    small = batch_size.plan_batch(curve, memory_mib, objective, 25)
    large = batch_size.plan_batch(curve, memory_mib + more_mib, objective, 25)
    if isinstance(small, BatchPlan):
        assert isinstance(large, BatchPlan)
        assert large.batch_size >= small.batch_size


def test_only_the_sizes_that_the_runtime_captures_are_considered() -> None:
    assert batch_size.BUCKETS == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    assert batch_size.MEMORY_SHARE == 0.9
