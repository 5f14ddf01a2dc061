"""Thresholds, refusals and the way back, by table and by property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.batching import buckets, governor
from avatar_runtime.batching.governor import Governor

CALM = governor.STEP_UP_DELAY_S


def limits(full: int, steps: list[tuple[float, float]]) -> list[int]:
    """Return the limit after each `(now, ratio)`."""
    state = Governor(full)
    seen = []
    for now, ratio in steps:
        state = state.with_memory(ratio, now)
        seen.append(state.limit)
    return seen


@pytest.mark.parametrize(
    ("ratio", "limit"),
    [(0.0, 16), (0.699, 16), (0.70, 8), (0.899, 8), (0.90, 4), (1.0, 4), (1.2, 4)],
)
def test_thresholds_give_the_full_a_half_and_a_quarter(ratio: float, limit: int) -> None:
    assert limits(16, [(0.0, ratio)]) == [limit]


# The published line of memory, as in examples/gpuprofile-published.yaml, in MiB.
def published(frames: int, total: int, foreign: int = 0) -> float:
    return (4000 + 1080 * frames + foreign) / total


def test_the_published_profile_goes_16_8_4_and_back() -> None:
    state, seen = Governor(16), []
    for second, foreign in enumerate([0, 40_000, 65_000, 65_000, 50_000, 50_000, 0, 0]):
        ratio = published(state.limit, 81_920, foreign)
        state = state.with_memory(ratio, second)
        seen.append((round(ratio, 3), state.limit))

    assert seen == [
        (0.26, 16),
        (0.748, 8),
        (0.948, 4),
        (0.895, 4),
        (0.712, 4),
        (0.712, 8),
        (0.154, 16),
        (0.26, 16),
    ]


def test_a_batch_that_itself_crosses_the_threshold_settles_instead_of_oscillating() -> None:
    # 24 GiB: 16 frames are 87 % of the card, 8 are 51 %.
    state, changes, now = Governor(16), 0, 0.0
    while now < 600:
        before, now = state.limit, now + 0.25
        state = state.with_memory(published(state.limit, 24_576), now)
        changes += before != state.limit
        assert state.limit in {8, 16}

    assert state.step_up_delay_s == governor.MAX_STEP_UP_DELAY_S
    assert changes < 40  # without the longer waits: 1,600


def test_a_plan_over_the_threshold_runs_in_full_and_yields_memory_to_others() -> None:
    # 24 GiB as the operator plans it: 16 frames are 87 % of the card, its own share at most 90 %.
    state = Governor(16, thresholds=governor.thresholds(published(16, 24_576)))
    seen, now = [], 0.0
    for foreign in [0, 0, 1000, 1300, 1300, 11_500, 11_500, 11_500, 0, 0, 0, 0]:
        now += CALM
        ratio = published(state.limit, 24_576, foreign)
        state = state.with_memory(ratio, now)
        seen.append((round(ratio, 3), state.limit))

    assert seen == [
        (0.866, 16),
        (0.866, 16),
        (0.907, 16),
        (0.919, 8),  # over 91.6 %: the plan and a margin
        (0.567, 8),
        (0.982, 4),
        (0.806, 4),
        (0.806, 8),
        (0.514, 16),
        (0.866, 16),
        (0.866, 16),
        (0.866, 16),
    ]


@given(planned=st.floats(0, 1))
def test_thresholds_are_those_of_the_plan_only_where_it_needs_more(planned: float) -> None:
    found = governor.thresholds(planned)
    assert found.divisor_at(planned) == 1
    assert governor.HALF_AT <= found.half_at < found.quarter_at
    assert governor.QUARTER_AT <= found.quarter_at
    if planned <= governor.HALF_AT - governor.MARGIN:
        assert found == governor.Thresholds(0.70, 0.90)


def test_memory_just_below_the_threshold_does_not_grow_the_batch() -> None:
    steps = [(0.0, 0.71), (1.0, 0.69), (60.0, 0.66), (120.0, 0.649), (120.0 + CALM, 0.649)]
    assert limits(16, steps) == [8, 8, 8, 8, 16]


def test_an_interrupted_delay_starts_again() -> None:
    steps = [(0.0, 0.75), (1.0, 0.5), (1.4, 0.66), (1.6, 0.5), (2.0, 0.5), (2.1, 0.5)]
    assert limits(16, steps) == [8, 8, 8, 8, 8, 16]


def test_it_grows_one_step_at_a_time() -> None:
    steps = [(0.0, 0.95), (1.0, 0.2), (1.5, 0.2), (1.6, 0.2), (2.0, 0.2)]
    assert limits(16, steps) == [4, 4, 8, 8, 16]


@pytest.mark.parametrize(
    ("full", "refused", "limit"),
    [(16, 16, 8), (16, 8, 4), (16, 4, 2), (16, 3, 1), (16, 2, 1), (16, 1, 1), (12, 12, 4),
     (1, 1, 1), (5, 5, 2), (100, 100, 48)],
)  # fmt: skip
def test_out_of_memory_leaves_at_most_half_of_the_failed_batch(
    full: int, refused: int, limit: int
) -> None:
    assert Governor(full).with_out_of_memory(refused, 0.0).limit == limit


def test_after_running_out_of_memory_once_the_full_batch_is_back_within_a_second() -> None:
    state = Governor(16).with_out_of_memory(16, 10.0)
    for now in (10.05, 10.3, 10.56):
        state = state.with_memory(0.5, now)

    assert state.limit == 16


def test_a_step_up_that_lasted_resets_the_delay() -> None:
    tired = replace(Governor(16), step_up_delay_s=8.0, raised_at=100.0)

    assert tired.with_out_of_memory(16, 101.0).step_up_delay_s == 16.0
    assert tired.with_out_of_memory(16, 100.0 + governor.STABLE_S).step_up_delay_s == CALM


@pytest.mark.parametrize(("asked", "limit"), [(None, 8), (3, 3), (16, 8)])
def test_the_smaller_of_two_limits_applies(asked: int | None, limit: int) -> None:
    assert governor.combined(Governor(16, divisor=2), asked) == limit


events = st.lists(
    st.one_of(st.floats(0, 1.1), st.integers(1, 64)),  # a ratio, or a refused batch
    max_size=60,
)


@given(full=st.integers(1, 96), happened=events, spacing=st.floats(0.01, 5.0))
def test_limits_stay_in_bounds_and_a_drop_is_at_once(
    full: int, happened: list[float | int], spacing: float
) -> None:
    state = Governor(full)
    for i, event in enumerate(happened):
        before = state
        if isinstance(event, float):
            state = state.with_memory(event, i * spacing)
            assert state.divisor >= governor.Thresholds().divisor_at(event)
            assert state.divisor >= before.divisor // 2
        else:
            state = state.with_out_of_memory(event, i * spacing)
            assert state.limit <= max(1, event // 2)
            assert state.divisor >= before.divisor
        assert 1 <= state.limit <= full
        assert state.limit == full or state.limit in buckets.BUCKETS


@given(full=st.integers(1, 96), happened=events)
def test_free_memory_always_brings_the_full_batch_back(
    full: int, happened: list[float | int]
) -> None:
    state = Governor(full)
    for i, event in enumerate(happened):
        when = i * 0.25
        if isinstance(event, float):
            state = state.with_memory(event, when)
        else:
            state = state.with_out_of_memory(event, when)
    now = len(happened) * 0.25
    for _ in range(8):  # at most seven steps from 1/128
        state = state.with_memory(0.1, now)
        now += governor.MAX_STEP_UP_DELAY_S
    state = state.with_memory(0.1, now)

    assert state.limit == full


@given(sizes=st.integers(1, 200))
def test_a_bucket_around_a_batch_is_the_next_that_holds_it(sizes: int) -> None:
    around = buckets.around(sizes)
    assert around >= sizes
    assert buckets.within(around) == around
    assert all(bucket < sizes or bucket >= around for bucket in buckets.BUCKETS)
