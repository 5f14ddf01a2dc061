"""Which connections make room, how often a session is resumed, and what wrong tokens cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol import resume_limits
from avatar_runtime.protocol.rate_limit import TokenBucket


@pytest.mark.parametrize(
    ("callers", "chosen"),
    [
        ("a", 0),
        ("abc", 0),
        ("abcb", 1),
        ("baab", 0),
        ("cabab", 1),
        ("aaab", 0),
        ("baaa", 1),
    ],
)
def test_the_oldest_connection_of_the_busiest_caller_makes_room(callers: str, chosen: int) -> None:
    assert resume_limits.choose_displaced(callers) == chosen


@given(st.text("abcdefgh", min_size=1, max_size=40))
def test_a_caller_with_few_connections_is_not_closed_for_one_with_many(callers: str) -> None:
    chosen = callers[resume_limits.choose_displaced(callers)]
    assert all(callers.count(chosen) >= callers.count(other) for other in callers)


@given(
    st.integers(1, 8),
    st.floats(0.1, 10),
    st.lists(st.floats(0, 20), max_size=200),
)
def test_a_bucket_keeps_its_limit_in_any_time(
    burst: int, interval_s: float, pauses: list[float]
) -> None:
    bucket, now, admitted = TokenBucket(burst, interval_s), 0.0, list[float]()
    for pause in pauses:
        now += pause
        wait_s = bucket.wait_s(now)
        assert 0 <= wait_s <= interval_s + 1e-6
        is_admitted = bucket.admits(now)
        assert is_admitted == (wait_s == 0)
        if is_admitted:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            allowed = burst + (admitted[last] - admitted[first]) / interval_s
            assert last - first + 1 <= allowed + 1e-6


def test_a_bucket_admits_what_its_error_names() -> None:
    bucket = resume_limits.new_bucket()
    admitted = sum(bucket.admits(tenth / 10) for tenth in range(601))
    assert admitted == resume_limits.PER_MINUTE == 30


def test_the_time_to_wait_is_enough() -> None:
    bucket = TokenBucket(2, 6)
    assert [bucket.admits(100) for _ in range(3)] == [True, True, False]
    assert bucket.wait_s(101) == pytest.approx(5)
    assert bucket.admits(101 + bucket.wait_s(101))


def test_failures_are_counted_for_each_session_that_is_named() -> None:
    failed = resume_limits.FailedResumes()
    assert all(failed.admits("sess_1", 0) for _ in range(resume_limits.BURST))
    assert not failed.admits("sess_1", 0)
    assert failed.admits("sess_2", 0)
    assert failed.admits("sess_1", resume_limits.INTERVAL_S)


def test_names_that_callers_make_up_fill_no_memory() -> None:
    failed = resume_limits.FailedResumes()
    for number in range(2000):
        failed.admits(f"{number:04d}" * 1000, 0)
    assert len(failed._buckets) == 256
    assert max(map(len, failed._buckets)) == 64
