"""Shares of GPUs: within the capacity, minimum first, weighted max-min fair, and stable."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.planning.sharing.fair_share import Claim, share_out
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = 3


def claim(name: str, wanted: int, **changes: object) -> Claim:
    fields: dict[str, object] = {"cells": (0,), "created": "2026-01-01T00:00:00Z", **changes}
    return Claim(ServiceKey("acme", name), wanted, **fields)  # type: ignore[arg-type]


def totals(claims: Sequence[Claim], capacity: Sequence[int]) -> list[int]:
    return [sum(share.values()) for share in share_out(claims, capacity)]


@st.composite
def capacities(draw: st.DrawFn, largest: int = 6) -> list[int]:
    return draw(st.lists(st.integers(0, largest), min_size=CELLS, max_size=CELLS))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Claim], list[int]]:
    """Claims, some of which hold GPUs, within the capacity."""
    capacity = draw(capacities())
    free = list(capacity)
    claims = []
    for number in range(draw(st.integers(1, 5))):
        cells = draw(st.lists(st.integers(0, CELLS - 1), min_size=1, max_size=CELLS, unique=True))
        held: dict[int, int] = {}
        locked: dict[int, int] = {}
        for cell in cells:
            held[cell] = draw(st.integers(0, free[cell]))
            free[cell] -= held[cell]
            locked[cell] = draw(st.integers(0, held[cell]))
        claims.append(
            claim(
                f"s{number}",
                draw(st.integers(0, 8)),
                cells=tuple(cells),
                minimum=draw(st.integers(1, 3)),
                weight=draw(st.integers(1, 4)),
                priority=draw(st.integers(-1, 1)),
                held=held,
                locked=locked,
            )
        )
    return claims, capacity


def feasible(claims: Sequence[Claim], counts: Sequence[int], capacity: Sequence[int]) -> bool:
    """Return whether these numbers of GPUs fit, by trying every assignment of each claim."""

    def fits(index: int, free: tuple[int, ...]) -> bool:
        if index == len(claims):
            return True
        one = claims[index]
        ranges = [
            range(one.locked.get(cell, 0), free[cell] + 1)
            if cell in one.cells
            else range(one.locked.get(cell, 0), one.locked.get(cell, 0) + 1)
            for cell in range(CELLS)
        ]
        return any(
            fits(index + 1, tuple(a - b for a, b in zip(free, used, strict=True)))
            for used in product(*ranges)
            if sum(used) == counts[index]
        )

    return fits(0, tuple(capacity))


@given(problems())
def test_shares_fit_and_keep_what_must_stay(problem: tuple[list[Claim], list[int]]) -> None:
    claims, capacity = problem
    shares = share_out(claims, capacity)
    for cell in range(CELLS):
        assert sum(share.get(cell, 0) for share in shares) <= capacity[cell]
    for one, share in zip(claims, shares, strict=True):
        assert all(share.get(cell, 0) >= count for cell, count in one.locked.items())
        assert {cell for cell, count in share.items() if count} <= set(one.cells)
        assert sum(share.values()) <= max(one.wanted, sum(one.locked.values()))


@given(problems())
def test_no_service_can_get_more_without_a_cost_to_an_equal_or_smaller_one(
    problem: tuple[list[Claim], list[int]],
) -> None:
    claims, capacity = problem
    found = totals(claims, capacity)
    for index, one in enumerate(claims):
        if found[index] >= one.wanted:
            continue
        more = [count + (place == index) for place, count in enumerate(found)]
        assert not feasible(claims, more, capacity)
        for other in range(len(claims)):
            floor = sum(claims[other].locked.values())
            if other == index or found[other] <= floor:
                continue
            moved = [count - (place == other) for place, count in enumerate(more)]
            # A GPU moves from `other` to `index` only if the turn of `index` came first.
            if one.turn(found[index]) < claims[other].turn(found[other] - 1):
                assert not feasible(claims, moved, capacity)


@given(st.data())
def test_shares_equal_the_best_of_all_assignments(data: st.DataObject) -> None:
    capacity = data.draw(capacities(largest=3))
    claims = [
        claim(
            f"s{number}",
            data.draw(st.integers(0, 4)),
            cells=tuple(data.draw(st.sets(st.integers(0, CELLS - 1), min_size=1))),
            weight=data.draw(st.integers(1, 3)),
            minimum=0,
        )
        for number in range(3)
    ]
    choices = product(*(range(one.wanted + 1) for one in claims))
    best = max(
        sorted(count / one.weight for count, one in zip(counts, claims, strict=True) if one.wanted)
        for counts in choices
        if feasible(claims, counts, capacity)
    )
    found = totals(claims, capacity)
    filled = (count / one.weight for count, one in zip(found, claims, strict=True) if one.wanted)
    assert sorted(filled) == best


@given(problems())
def test_services_that_hold_their_shares_keep_them(
    problem: tuple[list[Claim], list[int]],
) -> None:
    claims, capacity = problem
    shares = share_out(claims, capacity)
    settled = [replace(one, held=share) for one, share in zip(claims, shares, strict=True)]
    assert share_out(settled, capacity) == shares


@given(problems())
def test_a_pod_moves_only_if_another_service_needs_its_gpu(
    problem: tuple[list[Claim], list[int]],
) -> None:
    claims, capacity = problem
    shares = share_out(claims, capacity)
    for cell in range(CELLS):
        given_back = any(
            share.get(cell, 0) < one.held.get(cell, 0)
            and sum(share.values()) >= sum(one.held.values())
            for one, share in zip(claims, shares, strict=True)
        )
        if given_back:  # the service has as many GPUs as before, but in another cell
            assert sum(share.get(cell, 0) for share in shares) == capacity[cell]


def test_every_service_gets_one_before_one_gets_two() -> None:
    small = [claim(f"small-{number:02}", 1) for number in range(5)]
    big = claim("big", 20, held={0: 12}, created="2025-01-01T00:00:00Z")
    assert totals([big, *small], [12]) == [7, 1, 1, 1, 1, 1]


def test_the_minimum_comes_before_the_weight() -> None:
    heavy, light = claim("heavy", 20, weight=100), claim("light", 20, minimum=3)
    assert totals([heavy, light], [8]) == [5, 3]


def test_weights_divide_what_the_minimums_leave() -> None:
    assert totals([claim("a", 8, weight=3), claim("b", 8)], [8]) == [6, 2]


def test_a_higher_priority_gets_its_minimum_first_and_no_more() -> None:
    low, high = claim("low", 4, minimum=2, priority=0), claim("high", 4, minimum=2, priority=1000)
    assert totals([low, high], [1]) == [0, 1]
    assert totals([low, high], [2]) == [0, 2]
    assert totals([low, high], [6]) == [3, 3]


def test_the_older_service_wins_a_tie() -> None:
    old = claim("zoe", 1, created="2025-01-01T00:00:00Z")
    assert totals([claim("amy", 1), old], [1]) == [0, 1]
    assert totals([claim("amy", 1), claim("zoe", 1)], [1]) == [1, 0]


def test_a_service_moves_to_another_class_for_one_that_cannot() -> None:
    free_to_move = claim("any", 2, cells=(0, 1), held={0: 2})
    bound = claim("only", 1, cells=(0,))
    assert share_out([free_to_move, bound], [2, 2]) == [{0: 1, 1: 1}, {0: 1}]


def test_pods_with_sessions_do_not_move() -> None:
    busy = claim("any", 2, cells=(0, 1), held={0: 2}, locked={0: 2})
    assert totals([busy, claim("only", 1, cells=(0,))], [2, 2]) == [2, 0]
