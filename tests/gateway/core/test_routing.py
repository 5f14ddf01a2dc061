from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.model import State
from avatar_gateway.core.routing import MAX_TRIES, STALE_S, Candidate, Shortage, order

NOW = 100.0


def _pod(
    key: str,
    sessions: int,
    capacity: int = 5,
    *,
    placed: int = 0,
    usable: bool = True,
    ready: bool = True,
    draining: bool = False,
    age: float = 0.0,
    reserve: bool = False,
) -> Candidate:
    state = State(capacity, sessions, capacity - sessions, draining, ready, 1, NOW - age)
    return Candidate(key, usable, state, placed, reserve)


def test_the_fullest_pod_with_a_free_slot_comes_first() -> None:
    pods = [_pod("a", 1), _pod("b", 4), _pod("c", 5), _pod("d", 3)]
    assert order(pods, NOW) == ["b", "d", "a"]


def test_pods_are_ranked_by_the_share_of_used_slots() -> None:
    assert order([_pod("small", 0, 2), _pod("large", 5, 20)], NOW) == ["large", "small"]


@pytest.mark.parametrize(
    ("pods", "ranked"),
    [
        ([_pod("half", 1, 2), _pod("quarter", 5, 20)], ["half", "quarter"]),
        ([_pod("one", 1, 2), _pod("two", 2, 4)], ["two", "one"]),
        ([_pod("one", 1, 2), _pod("two", 1, 4, placed=1)], ["two", "one"]),
    ],
    ids=["share", "equal shares", "equal shares with a placement"],
)
def test_the_share_decides_and_then_the_number_of_sessions(
    pods: list[Candidate], ranked: list[str]
) -> None:
    assert order(pods, NOW) == ranked
    assert order(pods[::-1], NOW) == ranked


def test_a_state_is_fresh_for_three_and_a_half_seconds() -> None:
    assert order([_pod("a", 0, age=3.5)], NOW) == ["a"]
    assert order([_pod("a", 0, age=3.501)], NOW) is Shortage.NOT_READY


def test_placed_sessions_count_as_sessions() -> None:
    pods = [_pod("a", 2, placed=2), _pod("b", 3)]
    assert order(pods, NOW) == ["a", "b"]


def test_reserve_pods_rank_last_but_before_pods_that_the_gateway_counts_as_full() -> None:
    pods = [_pod("kept", 4, reserve=True), _pod("empty", 0), _pod("full", 4, placed=1)]
    assert order(pods, NOW) == ["empty", "kept", "full"]


def test_a_candidate_is_not_in_the_reserve_by_default() -> None:
    assert not Candidate("a", usable=True, state=None, placed=0).reserve


def test_a_pod_that_the_gateway_counts_as_full_ranks_last() -> None:
    pods = [_pod("a", 4, placed=1), _pod("b", 0)]
    assert order(pods, NOW) == ["b", "a"]
    assert order(pods[:1], NOW) == ["a"]
    # With more placements than free slots, too.
    assert order([_pod("a", 4, placed=2), _pod("b", 0)], NOW) == ["b", "a"]


def test_equal_pods_are_ranked_by_name() -> None:
    assert order([_pod("b", 1), _pod("a", 1)], NOW) == ["a", "b"]


def test_the_number_of_tried_pods_is_limited() -> None:
    assert len(order([_pod(str(n), 1) for n in range(50)], NOW)) == MAX_TRIES == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pods", "shortage"),
    [
        pytest.param([], Shortage.NOT_READY, id="no pod"),
        pytest.param([Candidate("a", True, None, 0)], Shortage.NOT_READY, id="no state"),
        pytest.param([_pod("a", 0, age=STALE_S + 0.1)], Shortage.NOT_READY, id="stale"),
        pytest.param([_pod("a", 0, ready=False)], Shortage.NOT_READY, id="loading"),
        pytest.param([_pod("a", 0, usable=False)], Shortage.NOT_READY, id="terminating"),
        pytest.param([_pod("a", 0, draining=True)], Shortage.DRAINING, id="draining"),
        pytest.param([_pod("a", 5)], Shortage.NO_CAPACITY, id="full"),
        pytest.param(
            [_pod("a", 5), _pod("b", 0, draining=True)],
            Shortage.NO_CAPACITY,
            id="full and draining",
        ),
        pytest.param(
            [_pod("a", 0, draining=True), _pod("b", 0, ready=False)],
            Shortage.DRAINING,
            id="draining and loading",
        ),
        pytest.param([_pod("a", 0, 0)], Shortage.NO_CAPACITY, id="no slots"),
    ],
)
def test_a_shortage_states_its_reason(pods: list[Candidate], shortage: Shortage) -> None:
    assert order(pods, NOW) is shortage


_CANDIDATES = st.lists(
    st.builds(
        lambda key, capacity, taken, placed, usable, ready, draining, age: _pod(
            str(key),
            min(taken, capacity),
            capacity,
            placed=placed,
            usable=usable,
            ready=ready,
            draining=draining,
            age=age,
        ),
        st.integers(0, 99),
        st.integers(0, 8),
        st.integers(0, 8),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from([0.0, 1.0, STALE_S, STALE_S + 1]),
    ),
    unique_by=lambda pod: pod.key,
)


@given(_CANDIDATES)
def test_only_pods_with_a_fresh_state_and_a_free_slot_are_ranked(pods: list[Candidate]) -> None:
    found = order(pods, NOW)
    fit = {
        pod.key: pod
        for pod in pods
        if pod.usable
        and pod.state
        and pod.state.ready
        and not pod.state.draining
        and pod.state.free > 0
        and NOW - pod.state.at <= STALE_S
    }
    if isinstance(found, Shortage):
        assert not fit
        return
    assert set(found) <= set(fit)
    assert len(found) == len(set(found)) == min(len(fit), MAX_TRIES)


@given(_CANDIDATES)
def test_the_ranking_does_not_depend_on_the_order_of_the_input(pods: list[Candidate]) -> None:
    assert order(pods, NOW) == order(list(reversed(pods)), NOW)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 30))
def test_a_burst_fills_one_pod_after_another_and_exceeds_no_capacity(
    capacities: list[int], callers: int
) -> None:
    """Place a burst during which no pod reports a new state."""
    placed = dict.fromkeys(range(len(capacities)), 0)
    for _ in range(min(callers, sum(capacities))):
        pods = [_pod(str(n), 0, c, placed=placed[n]) for n, c in enumerate(capacities)]
        best = order(pods, NOW)
        assert not isinstance(best, Shortage)
        placed[int(best[0])] += 1
    assert all(placed[n] <= capacity for n, capacity in enumerate(capacities))
    partly = [n for n, capacity in enumerate(capacities) if 0 < placed[n] < capacity]
    assert len(partly) <= 1
