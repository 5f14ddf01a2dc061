from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.backoff import Backoff, doubled, jittered

CHANCES = st.floats(0, 1)


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.1, 0.5, lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    backoff.reset()
    assert backoff.next_s() == 0.1


def test_pauses_grow_from_what_the_server_asked_for() -> None:
    backoff = Backoff(0.1, 10.0, lambda: 1.0)
    assert [backoff.next_s(3.0), backoff.next_s(), backoff.next_s()] == [3.0, 6.0, 10.0]
    # A server may ask for more than the longest pause.
    assert [backoff.next_s(60.0), backoff.next_s()] == [60.0, 10.0]


@given(first=st.floats(0.01, 1), factor=st.floats(1, 100), chances=st.lists(CHANCES, max_size=12))
def test_each_pause_is_between_half_and_whole(
    first: float, factor: float, chances: list[float]
) -> None:
    draws = iter(chances)
    backoff = Backoff(first, first * factor, lambda: next(draws))
    for tries in range(len(chances)):
        whole = min(first * 2**tries, first * factor)
        assert whole / 2 * 0.999 <= backoff.next_s() <= whole * 1.001


@given(pause=st.floats(0, 1e6), chance=CHANCES)
def test_jitter_only_shortens(pause: float, chance: float) -> None:
    assert pause / 2 <= jittered(pause, chance) <= pause
    assert jittered(pause, 0) == pause / 2
    assert jittered(pause, 1) == pause


def test_pause_doubles_with_each_failure_up_to_the_longest_one() -> None:
    assert [doubled(10.0, 300.0, count) for count in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]
    assert doubled(10.0, 300.0, 10**6) == 300.0
    assert doubled(5.0, inf, 3) == 20.0
