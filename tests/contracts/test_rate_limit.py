from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.rate_limit import BURST_S, Rate, RateLimit
from avatar_gateway.settings import Limits

RATE = Rate(frames_per_s=100, bytes_per_s=1000)


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(0, 100), st.integers(0, 1000)),
        min_size=1,
        max_size=60,
    )
)
def test_the_mean_rate_stays_below_the_limit_over_each_period(
    steps: list[tuple[float, int, int]],
) -> None:
    limit, now = RateLimit(RATE), 50.0
    passed: list[tuple[float, int, int]] = []
    for pause, frames, size in steps:
        now += pause
        passed.append((now, frames, size))
        now += limit.delay(now, frames, size)
    for index, (start, _, _) in enumerate(passed):
        for end in range(index, len(passed)):
            seconds = passed[end][0] - start + BURST_S
            # The last segment was passed before its own delay.
            assert sum(f for _, f, _ in passed[index:end]) <= 100 * seconds + 1e-6
            assert sum(s for _, _, s in passed[index:end]) <= 1000 * seconds + 1e-6


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), st.integers(0, 600)), max_size=40))
def test_a_segment_is_accepted_if_nothing_has_to_wait_after_it(
    steps: list[tuple[float, int, int]],
) -> None:
    asked, recorded, now = RateLimit(RATE), RateLimit(RATE), 50.0
    for pause, frames, size in steps:
        now += pause
        accepted = asked.accept(now, frames, size)
        delay = recorded.delay(now, frames, size)
        assert accepted is (delay == 0)
        if not accepted:  # nothing was recorded
            assert asked.delay(now, frames, size) == pytest.approx(delay)


def test_a_burst_passes_at_once_and_then_the_rate_applies() -> None:
    limit = RateLimit(RATE)
    assert limit.delay(0.0, int(BURST_S * 100), 0) == 0
    assert limit.delay(0.0, 50, 0) == pytest.approx(0.5)
    assert limit.delay(0.5, 0, 250) == pytest.approx(0.25)
    assert limit.delay(100.0, 1, 1) == 0


def test_a_session_never_waits() -> None:
    """A caller speaks in pieces of 10 ms, a pod sends 25 frames of 80 KB and audio in a second."""
    default = Limits()
    rate = Rate(default.frames_per_s, default.bytes_per_s)
    caller, pod = RateLimit(rate), RateLimit(rate)
    assert pod.delay(0.0, 75, 3 * 25 * 80_000) == 0  # a window of 3 s leaves at once
    for step in range(1000):
        now = step / 100
        assert caller.delay(now, 3, 20_000) == 0
        assert pod.delay(now, 3, 30_000) == 0
