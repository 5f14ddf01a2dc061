"""The fair order against the ideal server of its definition, in exact arithmetic."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from itertools import count, pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_gateway.core.fair_queue import MAX_CALLERS, FairQueue, Share

if TYPE_CHECKING:
    from collections.abc import Sequence


def _queue(*callers: tuple[str, Share]) -> FairQueue:
    queue = FairQueue()
    for caller, share in callers:
        queue.join(caller, share)
    return queue


def _serve(queue: FairQueue, slots: int) -> list[str]:
    served = []
    for _ in range(slots):
        caller = queue.next()
        if caller is None:
            break
        queue.grant(caller)
        served.append(caller)
    return served


def test_the_callers_of_one_tenant_are_served_in_the_order_of_their_arrival() -> None:
    queue = _queue(*((name, Share()) for name in "dabc"))
    queue.leave("a")
    queue.leave("unknown")
    assert (len(queue), "a" in queue, "b" in queue) == (3, False, True)
    assert _serve(queue, 9) == ["d", "b", "c"]
    assert queue.next() is None


def test_a_flood_does_not_delay_another_tenant() -> None:
    queue = _queue(*((f"a{n}", Share("a")) for n in range(500)))
    _serve(queue, 10)
    queue.join("b0", Share("b"))
    assert queue.places()["b0"] <= 2
    assert "b0" in _serve(queue, 2)


def test_slots_are_shared_by_weight() -> None:
    shares = [Share("a", 3), Share("b", 1), Share("c", 2)]
    queue = _queue(*((f"{s.tenant}{n}", s) for s in shares for n in range(100)))
    assert Counter(caller[0] for caller in _serve(queue, 60)) == {"a": 30, "b": 10, "c": 20}


def test_a_heavy_tenant_is_served_evenly_among_many_light_ones() -> None:
    """Serving by start or by finish alone would give a burst to one side (see the module)."""
    light = [Share(f"t{n:03}", 1) for n in range(100)]
    queue = _queue(*((f"{s.tenant}-{n}", s) for s in light for n in range(5)))
    for number in range(500):
        queue.join(f"heavy-{number}", Share("heavy", 100))
    order = [caller.partition("-")[0] == "heavy" for caller in _serve(queue, 200)]
    for slots in range(1, 201):
        assert abs(sum(order[:slots]) - slots / 2) <= 1


def test_rounding_and_time_do_not_change_the_shares() -> None:
    shares = [Share("a", 1), Share("b", 3), Share("c", 7)]
    queue, names, served = FairQueue(), count(), Counter[str]()
    for share in shares:
        queue.join(f"{share.tenant}{next(names)}", share)
        queue.join(f"{share.tenant}{next(names)}", share)
    for slots in range(1, 11_001):
        (caller,) = _serve(queue, 1)
        served[caller[0]] += 1
        share = next(share for share in shares if share.tenant == caller[0])
        queue.join(f"{share.tenant}{next(names)}", share)
        if slots % 10 == 0:
            for share in shares:
                assert abs(served[share.tenant] - slots * share.weight / 11) < 1.001
    assert served == {"a": 1000, "b": 3000, "c": 7000}


def test_a_higher_priority_is_served_first() -> None:
    queue = _queue(("low", Share("a", 1000, 0)), ("high", Share("b", 1, 7)))
    assert queue.places() == {"high": 1, "low": 2}
    assert not queue.has_before(Share("c", 1, 8))
    assert queue.has_before(Share("c", 1, 7))
    assert _serve(queue, 2) == ["high", "low"]
    assert not queue.has_before(Share("c"))


def test_the_weight_and_the_priority_of_a_tenant_may_change() -> None:
    queue = _queue(("a0", Share("a", 1, 0)), ("b0", Share("b", 1, 3)))
    queue.join("a1", Share("a", 5, 9))
    assert _serve(queue, 3) == ["a0", "a1", "b0"]
    assert len(queue) == 0


def test_a_tenant_that_is_set_aside_keeps_nobody_waiting() -> None:
    queue = _queue(("a0", Share("a", 1, 5)), ("a1", Share("a", 1, 5)), ("b0", Share("b")))
    queue.set_aside("a")
    queue.set_aside("gone")
    assert queue.next() == "b0"
    assert queue.places() == {"b0": 1, "a0": 1, "a1": 2}
    assert queue.has_before(Share("a", 1, 5))
    assert not queue.has_before(Share("c", 1, 5))
    queue.resume("a")
    assert _serve(queue, 3) == ["a0", "a1", "b0"]


def test_a_tenant_gets_nothing_for_the_time_in_which_it_was_set_aside() -> None:
    queue = _queue(*((f"{t}{n}", Share(t)) for t in "ab" for n in range(50)))
    queue.set_aside("a")
    _serve(queue, 20)
    queue.resume("a")
    assert Counter(caller[0] for caller in _serve(queue, 10)) == {"a": 5, "b": 5}


def test_a_tenant_that_returns_does_not_get_more_than_its_share() -> None:
    queue, names = _queue(*((f"b{n}", Share("b")) for n in range(400))), count()
    served = Counter[str]()
    for _ in range(200):  # one caller of a at a time: it leaves the queue after each slot
        if "a" not in queue.tenants:
            queue.join(f"a{next(names)}", Share("a"))
        served[_serve(queue, 1)[0][0]] += 1
    assert abs(served["a"] - served["b"]) <= 1


def test_every_tenant_may_have_as_many_callers_as_there_are_free_places() -> None:
    queue, names = FairQueue(), count()

    def fill(tenant: str) -> int:
        while queue.accepts(tenant):
            queue.join(f"c{next(names)}", Share(tenant))
        return queue.tenants.get(tenant, 0)

    assert fill("") == MAX_CALLERS // 2 == 1000
    assert [fill("a"), fill("b")] == [500, 250]
    late = [fill(f"t{number}") for number in range(1000)]
    assert late[:7] == [125, 63, 31, 16, 8, 4, 2]
    assert len(queue) == MAX_CALLERS


_WEIGHTS = st.lists(st.sampled_from([1, 1, 2, 3, 10, 50, 1000]), min_size=1, max_size=8)


class _IdealServer:
    """Serves all tenants with work at the same time, in proportion to their weights."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self.left = [Fraction(0)] * len(weights)
        self.served = [Fraction(0)] * len(weights)

    def give_one_slot(self) -> None:
        work = Fraction(1)
        while work and (busy := [n for n, left in enumerate(self.left) if left]):
            total = sum(self._weights[n] for n in busy)
            step = min(work, *(self.left[n] * total / self._weights[n] for n in busy))
            for n in busy:
                part = step * self._weights[n] / total
                self.left[n] -= part
                self.served[n] += part
            work -= step


@given(_WEIGHTS, st.lists(st.one_of(st.integers(0, 7), st.none()), max_size=200))
def test_no_tenant_is_a_slot_behind_or_ahead_of_the_ideal_server(
    weights: list[int], steps: list[int | None]
) -> None:
    """A number is the arrival of a caller of that tenant, None a slot."""
    queue, ideal, served = FairQueue(), _IdealServer(weights), [0] * len(weights)
    for number, step in enumerate(steps):
        if step is not None:
            tenant = step % len(weights)
            queue.join(f"{tenant}:{number}", Share(str(tenant), weights[tenant]))
            ideal.left[tenant] += 1
        elif (caller := queue.next()) is not None:
            queue.grant(caller)
            served[int(caller.partition(":")[0])] += 1
            ideal.give_one_slot()
        for got, due in zip(served, ideal.served, strict=True):
            assert abs(got - due) <= 1 + Fraction(1, 10**5)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_thousand_tenants_get_their_weighted_share_within_one_slot(seed: int) -> None:
    """Twenty tenants always have callers; others come and go at three levels of priority."""
    random = Random(seed)
    shares = [
        Share(f"t{n:04}", random.choice([1, 1, 2, 5, 20]), random.choice([0, 0, 0, 3, 9]))
        for n in range(1000)
    ]
    steady = [share for share in shares if share.priority == 0][:20]
    queue, names = FairQueue(), count()
    for share in steady:
        queue.join(f"{share.tenant}/{next(names)}", share)
        queue.join(f"{share.tenant}/{next(names)}", share)
    due = defaultdict[str, float](float)
    served = Counter[str]()
    for _ in range(400):
        if random.random() < 0.5:  # bursts of tenants with a higher priority
            share = random.choice(shares)
            if share.priority:
                queue.join(f"{share.tenant}/{next(names)}", share)
        caller = queue.next()
        assert caller is not None
        tenant = caller.partition("/")[0]
        queue.grant(caller)
        served[tenant] += 1
        own = next((share for share in steady if share.tenant == tenant), None)
        if own is not None:
            queue.join(f"{tenant}/{next(names)}", own)
            total = sum(share.weight for share in steady)
            for share in steady:
                due[share.tenant] += share.weight / total
    for share in steady:
        assert abs(served[share.tenant] - due[share.tenant]) <= 1 + 1e-6


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "join", "leave", "grant", "aside", "resume"]),
        st.integers(0, 5),
        st.sampled_from([1, 2, 7, 1000]),
        st.integers(0, 2),
    ),
    max_size=60,
)


@given(_STEPS)
def test_every_caller_is_served_once_after_any_history(
    steps: list[tuple[str, int, int, int]],
) -> None:
    queue, waiting, names = FairQueue(), dict[str, int](), count()
    for what, which, weight, priority in steps:
        if what == "join":
            caller = f"{which}:{next(names):03}"
            queue.join(caller, Share(str(which), weight, priority))
            waiting[caller] = which
        elif what == "leave" and waiting:
            caller = sorted(waiting)[which % len(waiting)]
            queue.leave(caller)
            del waiting[caller]
        elif what == "grant" and (found := queue.next()) is not None:
            assert found == next(iter(queue.order()))
            queue.grant(found)
            del waiting[found]
        elif what in ("aside", "resume"):
            (queue.set_aside if what == "aside" else queue.resume)(str(which))
        assert len(queue) == len(waiting)
        assert queue.tenants == Counter(str(tenant) for tenant in waiting.values())
        assert queue.places().keys() == waiting.keys()
    for tenant in range(6):
        queue.resume(str(tenant))
    expected = list(queue.order())
    assert _serve(queue, len(waiting) + 1) == expected
    assert sorted(expected) == sorted(waiting)
    for name in map(str, range(6)):
        own = [caller for caller in expected if caller.startswith(name)]
        assert all(first < second for first, second in pairwise(own))
    assert len(queue) == 0


@pytest.mark.parametrize("tenants", [10, 1000])
def test_a_queue_that_has_emptied_keeps_nothing(tenants: int) -> None:
    queue = FairQueue()
    for number in range(tenants):
        queue.join(str(number), Share(f"t{number}", 1 + number % 9, number % 5))
    _serve(queue, tenants)
    assert queue.tenants == {}
    assert not queue._flows
    assert not queue._levels
