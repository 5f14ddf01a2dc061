from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.memory_budget import MemoryBudget


def test_only_the_connection_with_the_most_waits() -> None:
    budget = MemoryBudget(1000)
    for name, size in (("large", 900), ("small", 50), ("empty", 0)):
        budget.update(name, size)
    assert not budget.must_wait("large")
    budget.update("small", 200)
    assert budget.total == 1100
    assert [budget.must_wait(name) for name in ("large", "small", "empty")] == [True, False, False]
    budget.update("large", 700)
    assert not budget.must_wait("large")


def test_a_connection_that_ended_holds_nothing() -> None:
    budget = MemoryBudget(1000)
    budget.update("gone", 2000)
    budget.update("other", 400)
    budget.remove("gone")
    budget.remove("gone")
    assert budget.total == 400
    assert not budget.must_wait("other")
    assert not budget.must_wait("gone")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300) | st.none()), max_size=40))
def test_some_connection_waits_above_the_limit_and_none_below(
    changes: list[tuple[int, int | None]],
) -> None:
    budget, sizes = MemoryBudget(500), dict[int, int]()
    for name, size in changes:
        if size is None:
            sizes.pop(name, None)
            budget.remove(name)
        else:
            sizes[name] = size
            budget.update(name, size)
        waiting = {each for each in sizes if budget.must_wait(each)}
        total = sum(sizes.values())
        assert budget.total == total
        assert bool(waiting) is (total > 500)
        if waiting:
            assert max(sizes, key=sizes.__getitem__) in waiting
            assert sum(sizes[each] for each in sizes.keys() - waiting) <= 500
