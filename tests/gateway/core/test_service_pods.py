"""`ServicePods` against a scan of all pods, and its choice by GPU class and by avatar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.model import UNKNOWN_COST, State
from avatar_gateway.core.routing import MAX_TRIES, STALE_S, Candidate, ServicePods, Shortage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

NOW = 100.0


def _pod(
    key: str, sessions: int, capacity: int = 5, *, placed: int = 0, reserved: int = 0,
    gpu_class: str = "a", reserve: bool = False, age: float = 0.0,
    draining: bool = False, ready: bool = True, usable: bool = True, cost: float = UNKNOWN_COST,
) -> Candidate:  # fmt: skip
    state = State(capacity, sessions, capacity - sessions, draining, ready, 1, NOW - age)
    return Candidate(key, usable, state, placed, reserve, reserved, gpu_class, cost=cost)


def _index(pods: Iterable[Candidate]) -> ServicePods:
    found = ServicePods()
    for pod in pods:
        found.set(pod)
    return found


def _scan(
    pods: Iterable[Candidate], gpu_classes: Set[str], preferred: Set[str]
) -> Sequence[str] | Shortage:
    """Return what `ServicePods.order` must return, by its definition."""
    own = [pod for pod in pods if not gpu_classes or pod.gpu_class in gpu_classes]
    ready = [pod for pod in own if pod.is_ready(NOW)]
    if not ready:
        return Shortage.NOT_READY
    if all(pod.state is not None and pod.state.draining for pod in ready):
        return Shortage.DRAINING
    ranks = [rank for pod in ready if (rank := pod.rank()) is not None]
    ranks.sort(key=lambda rank: (rank[0] or rank[1] or rank[-1] not in preferred, rank))
    return [rank[-1] for rank in ranks[:MAX_TRIES]] or Shortage.NO_CAPACITY


_PODS = st.builds(
    lambda key, capacity, taken, connecting, accepted, gpu_class, reserve, age, flags: _pod(
        str(key),
        min(taken, capacity),
        capacity,
        placed=connecting + accepted,
        reserved=connecting,
        gpu_class=gpu_class,
        reserve=reserve,
        age=age,
        draining=flags == "draining",
        ready=flags != "loading",
        usable=flags != "terminating",
        cost=ord(gpu_class) % 3,  # a costs more than c, and b more than both
    ),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from("abc"),
    st.booleans(),
    st.sampled_from([0.0, STALE_S, STALE_S + 1]),
    st.sampled_from(["", "", "", "draining", "loading", "terminating"]),
)
_STEPS = st.lists(st.one_of(_PODS, st.integers(0, 9).map(str)), max_size=40)


@given(_STEPS, st.sets(st.sampled_from("abc")), st.sets(st.integers(0, 9).map(str), max_size=4))
def test_the_index_orders_as_a_scan_of_all_pods_would(
    steps: list[Candidate | str], gpu_classes: set[str], preferred: set[str]
) -> None:
    index, pods = ServicePods(), dict[str, Candidate]()
    for step in steps:
        if isinstance(step, str):
            index.remove(step)
            pods.pop(step, None)
        else:
            index.set(step)
            pods[step.key] = step
        found = index.order(NOW, gpu_classes, preferred)
        assert found == _scan(pods.values(), gpu_classes, preferred)
    assert len(index) == len(pods)


def test_only_pods_of_an_allowed_class_are_tried() -> None:
    index = _index([_pod("big", 4, gpu_class="h100"), _pod("small", 1, gpu_class="l4")])
    assert index.order(NOW) == ["big", "small"]
    assert index.order(NOW, {"l4", "t4"}) == ["small"]
    assert index.order(NOW, {"t4"}) is Shortage.NOT_READY


@pytest.mark.parametrize(
    ("seen", "first"),
    [
        (_pod("seen", 1), "seen"),
        (_pod("seen", 4, reserved=1), "other"),
        (_pod("seen", 4, placed=1), "other"),
        (_pod("seen", 1, reserve=True), "other"),
        (_pod("seen", 1, age=STALE_S + 1), "other"),
    ],
    ids=["room", "full", "probably full", "reserve", "stale"],
)
def test_a_pod_that_has_shown_the_avatar_comes_first_if_it_has_room(
    seen: Candidate, first: str
) -> None:
    index = _index([seen, _pod("other", 3)])
    found = index.order(NOW, preferred=["gone", "seen"])
    assert not isinstance(found, Shortage)
    assert found[0] == first


def test_a_reserved_slot_is_not_given_twice() -> None:
    assert _index([_pod("a", 4, placed=1, reserved=1)]).order(NOW) is Shortage.NO_CAPACITY
    # A placement that the state may count already does not take the last slot away.
    assert _index([_pod("a", 4, placed=1, reserved=0)]).order(NOW) == ["a"]


@pytest.mark.parametrize(
    ("pods", "allowed", "preferred", "expected"),
    [
        ([_pod("a", 2, cost=2.0), _pod("b", 2, cost=0.5)], "", "", ["b", "a"]),
        ([_pod("a", 2), _pod("b", 2, cost=9.0)], "", "", ["b", "a"]),
        ([_pod("a", 3, cost=2.0), _pod("b", 2, cost=0.5)], "", "", ["a", "b"]),
        ([_pod("a", 2, 4, cost=2.0), _pod("b", 1, 2, cost=0.5)], "", "", ["b", "a"]),
        ([_pod("a", 2, cost=2.0, gpu_class="x"), _pod("b", 2, cost=0.5)], "x", "", ["a"]),
        ([_pod("a", 2, cost=2.0), _pod("b", 2, cost=0.5)], "", "a", ["a", "b"]),
        ([_pod("a", 2, cost=2.0), _pod("b", 2, cost=0.5), _pod("c", 2)], "", "ab", ["b", "a", "c"]),
        ([_pod("a", 0, cost=2.0), _pod("b", 0, cost=0.5, reserve=True)], "", "", ["a", "b"]),
    ],
    ids=["cheaper", "unknown", "fuller", "same share", "class", "avatar", "avatars", "reserve"],
)
def test_of_equally_full_pods_the_cheapest_comes_first(
    pods: list[Candidate], allowed: str, preferred: str, expected: list[str]
) -> None:
    assert _index(pods).order(NOW, frozenset(allowed), preferred) == expected
