"""The shares move as few pods as any assignment with the same totals, ready ones last."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.planning.sharing.fair_share import Claim, share_out
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = 4
IMPOSSIBLE = 10**6


def claim(
    name: str,
    wanted: int,
    cells: Sequence[int],
    held: dict[int, int],
    ready: dict[int, int] | None = None,
) -> Claim:
    """Return a claim whose pods are all ready, if it is not said otherwise."""
    ready = held if ready is None else ready
    return Claim(ServiceKey("acme", name), wanted, tuple(cells), held=held, ready=ready)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Claim], list[int]]:
    capacity = draw(st.lists(st.integers(0, 2), min_size=CELLS, max_size=CELLS))
    free = list(capacity)
    claims = []
    for number in range(draw(st.integers(2, 4))):
        cells = draw(st.lists(st.integers(0, CELLS - 1), min_size=1, max_size=3, unique=True))
        held: dict[int, int] = {}
        for cell in cells:
            held[cell] = draw(st.integers(0, free[cell]))
            free[cell] -= held[cell]
        ready = {cell: draw(st.integers(0, count)) for cell, count in held.items()}
        claims.append(claim(f"s{number}", draw(st.integers(0, 4)), cells, held, ready))
    return claims, capacity


def cost(one: Claim, cell: int, count: int) -> int:
    """Return 1 for each pod that has to become ready, and 2 for each that has to be made."""
    return max(0, count - one.ready.get(cell, 0)) + max(0, count - one.held.get(cell, 0))


def moves(claims: Sequence[Claim], shares: Sequence[dict[int, int]]) -> int:
    """Return what the pods cost that a service does not have, or that are not ready."""
    return sum(
        cost(one, cell, count)
        for one, share in zip(claims, shares, strict=True)
        for cell, count in share.items()
    )


def fewest_moves(claims: Sequence[Claim], totals: Sequence[int], capacity: Sequence[int]) -> int:
    """Return the fewest moves, by trying every assignment."""

    @cache
    def fewest(index: int, free: tuple[int, ...]) -> int:
        if index == len(claims):
            return 0
        one = claims[index]
        ranges = [range(free[cell] + 1 if cell in one.cells else 1) for cell in range(CELLS)]
        return min(
            (
                sum(cost(one, cell, count) for cell, count in enumerate(used))
                + fewest(index + 1, tuple(a - b for a, b in zip(free, used, strict=True)))
                for used in product(*ranges)
                if sum(used) == totals[index]
            ),
            default=IMPOSSIBLE,
        )

    return fewest(0, tuple(capacity))


@given(problems())
def test_no_assignment_with_these_totals_moves_fewer_pods(
    problem: tuple[list[Claim], list[int]],
) -> None:
    claims, capacity = problem
    shares = share_out(claims, capacity)
    totals = [sum(share.values()) for share in shares]
    assert moves(claims, shares) == fewest_moves(claims, totals, capacity)


def test_a_service_keeps_its_ready_pod_and_gives_the_starting_one_back() -> None:
    """Seen with a preferred class whose pod was starting: the only ready pod was given back."""
    both = claim("both", 1, [0, 1], {0: 1, 1: 1}, ready={1: 1})
    assert share_out([both], [1, 1]) == [{1: 1}]
    new = claim("new", 1, [0, 1], {})
    assert share_out([both, new], [1, 1]) == [{1: 1}, {0: 1}]


def test_a_chain_of_moves_reaches_a_free_gpu_three_cells_away() -> None:
    claims = [
        claim("a", 1, [0, 1], {0: 1}),
        claim("b", 1, [1, 2], {1: 1}),
        claim("c", 1, [2, 3], {2: 1}),
        claim("new", 1, [0], {}),
    ]
    shares = share_out(claims, [1, 1, 1, 1])
    assert [{k: v for k, v in share.items() if v} for share in shares] == [
        {1: 1}, {2: 1}, {3: 1}, {0: 1},
    ]  # fmt: skip


def test_the_shorter_of_two_chains_moves() -> None:
    claims = [
        claim("long", 1, [0, 2], {0: 1}),
        claim("next", 1, [2, 3], {2: 1}),
        claim("short", 1, [1, 3], {1: 1}),
        claim("new", 1, [0, 1], {}),
    ]
    shares = share_out(claims, [1, 1, 1, 1])
    assert [{k: v for k, v in share.items() if v} for share in shares] == [
        {0: 1}, {2: 1}, {3: 1}, {1: 1},
    ]  # fmt: skip
