"""Shares between tenants: by weight and priority, and in a tenant between its services."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.planning.sharing.fair_share import Claim, Group, share_out
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Sequence

ACME, GLOBEX = Group("acme"), Group("globex")


def claim(name: str, wanted: int, group: Group | None, **changes: object) -> Claim:
    fields: dict[str, object] = {"cells": (0,), "group": group, **changes}
    return Claim(ServiceKey("a", name), wanted, **fields)  # type: ignore[arg-type]


def totals(claims: Sequence[Claim], capacity: int) -> list[int]:
    return [sum(share.values()) for share in share_out(claims, [capacity])]


def test_a_tenant_with_many_services_gets_no_more_than_one_with_a_single_service() -> None:
    claims = [claim(f"a{n}", 9, ACME) for n in range(3)] + [claim("g", 9, GLOBEX)]
    assert totals(claims, 12) == [2, 2, 2, 6]


def test_weights_of_tenants_count_first_and_then_those_of_services() -> None:
    heavy = Group("acme", weight=3)
    claims = [
        claim("a0", 99, heavy, weight=2),
        claim("a1", 99, heavy),
        claim("g", 99, GLOBEX, weight=100),
    ]
    assert totals(claims, 24) == [12, 6, 6]


def test_every_service_gets_its_minimum_before_a_tenant_of_a_higher_priority_gets_more() -> None:
    first = Group("acme", priority=9)
    claims = [claim("a", 9, first), claim("g0", 9, GLOBEX), claim("g1", 9, GLOBEX, minimum=2)]
    assert totals(claims, 6) == [3, 1, 2]
    assert totals(claims, 1) == [1, 0, 0]


def test_priority_takes_no_gpu_with_a_session() -> None:
    first = Group("acme", priority=9)
    busy = claim("g", 9, GLOBEX, held={0: 5}, locked={0: 4})
    assert totals([claim("a", 9, first), busy], 6) == [2, 4]


def test_a_service_without_a_tenant_is_a_group_of_its_own() -> None:
    claims = [claim("a0", 9, ACME), claim("a1", 9, ACME), claim("n", 9, None)]
    assert totals(claims, 8) == [2, 2, 4]


groups = st.sampled_from(
    [None, Group("acme"), Group("globex", 2), Group("initech", 3, 5), Group("umbrella", 1, 5)]
)
claims = st.builds(
    claim,
    st.uuids().map(str),
    st.integers(0, 9),
    groups,
    weight=st.integers(1, 4),
    minimum=st.integers(0, 2),
    priority=st.integers(0, 1),
)


@given(st.lists(claims, min_size=1, max_size=8), st.integers(0, 30))
def test_each_gpu_goes_to_the_service_whose_turn_it_is(wishes: list[Claim], capacity: int) -> None:
    given_out = [0] * len(wishes)
    of_group: Counter[Group | None] = Counter()
    for _ in range(capacity):
        turns = [
            (one.turn(given_out[index], of_group[one.group]), index)
            for index, one in enumerate(wishes)
            if given_out[index] < one.wanted
        ]
        if not turns:
            break
        _, index = min(turns)
        given_out[index] += 1
        if wishes[index].group is not None:
            of_group[wishes[index].group] += 1
    assert totals(wishes, capacity) == given_out


@given(st.lists(claims, min_size=1, max_size=8), st.integers(0, 30))
def test_no_service_starves_and_a_result_that_is_held_does_not_change(
    wishes: list[Claim], capacity: int
) -> None:
    found = totals(wishes, capacity)
    needed = sum(min(one.wanted, max(1, one.minimum)) for one in wishes)
    if capacity >= needed and all(one.minimum for one in wishes):
        assert all(
            got >= min(one.wanted, one.minimum) for got, one in zip(found, wishes, strict=True)
        )
    held = [
        claim(
            one.key.name,
            one.wanted,
            one.group,
            weight=one.weight,
            minimum=one.minimum,
            priority=one.priority,
            held={0: got},
        )
        for one, got in zip(wishes, found, strict=True)
    ]
    assert totals(held, capacity) == found
