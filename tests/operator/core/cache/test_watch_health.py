from __future__ import annotations

import pytest

from avatar_operator.core.cache.store import Kind
from avatar_operator.core.cache.watch_health import FROZEN_S, Watches

ROUND_S = 100.0


def test_a_quiet_cluster_is_not_a_frozen_watch() -> None:
    watches = Watches(-1.0)
    for number in range(50):
        watches.list(Kind.NODES, 0, number * ROUND_S)
    assert watches.frozen() == ()
    assert watches.ages(4900.0)[Kind.NODES] == 4901.0


def test_a_watch_is_frozen_when_listings_find_changes_for_minutes_that_it_never_told() -> None:
    watches = Watches(-1.0)
    watches.list(Kind.PODS, 7, 0.0)  # the first listing finds everything
    for now in (100.0, 200.0):
        watches.list(Kind.PODS, 1, now)
        assert watches.frozen() == ()
    watches.list(Kind.PODS, 1, 100.0 + FROZEN_S)
    assert watches.frozen() == (Kind.PODS,)


@pytest.mark.parametrize("speaks", [True, False], ids=["it-told-something", "nothing-changed"])
def test_one_good_round_ends_the_doubt(speaks: bool) -> None:
    watches = Watches(-1.0)
    watches.list(Kind.PODS, 0, 0.0)
    watches.list(Kind.PODS, 1, 100.0)
    if speaks:
        watches.hear(Kind.PODS, 150.0)
    watches.list(Kind.PODS, int(speaks), 200.0)
    watches.list(Kind.PODS, 1, 300.0)
    assert watches.frozen() == ()
    watches.list(Kind.PODS, 1, 500.0)
    assert watches.frozen() == (Kind.PODS,)


def test_a_watch_that_comes_back_is_frozen_no_more() -> None:
    watches = Watches(-1.0)
    for now in (0.0, 100.0, 300.0):
        watches.list(Kind.SERVICES, 1, now)
    assert watches.frozen() == (Kind.SERVICES,)
    watches.hear(Kind.SERVICES, 301.0)
    assert watches.frozen() == ()
