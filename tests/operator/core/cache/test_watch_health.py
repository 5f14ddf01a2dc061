from __future__ import annotations

import pytest

from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.watch_health import FROZEN_S, WatchHealth

ROUND_S = 100.0


def test_a_quiet_cluster_is_not_a_frozen_watch() -> None:
    health = WatchHealth(-1.0)
    for number in range(50):
        health.on_list(Kind.NODES, 0, number * ROUND_S)
    assert health.frozen() == ()
    assert health.ages(4900.0)[Kind.NODES] == 4901.0


def test_a_watch_is_frozen_when_lists_find_missed_changes_for_minutes() -> None:
    health = WatchHealth(-1.0)
    health.on_list(Kind.PODS, 7, 0.0)  # the first list finds everything
    for now in (100.0, 200.0):
        health.on_list(Kind.PODS, 1, now)
        assert health.frozen() == ()
    health.on_list(Kind.PODS, 1, 100.0 + FROZEN_S)
    assert health.frozen() == (Kind.PODS,)


@pytest.mark.parametrize("delivers", [True, False], ids=["event-delivered", "nothing-changed"])
def test_an_event_or_an_unchanged_list_resets_the_suspicion(delivers: bool) -> None:
    health = WatchHealth(-1.0)
    health.on_list(Kind.PODS, 0, 0.0)
    health.on_list(Kind.PODS, 1, 100.0)
    if delivers:
        health.on_event(Kind.PODS, 150.0)
    health.on_list(Kind.PODS, int(delivers), 200.0)
    health.on_list(Kind.PODS, 1, 300.0)
    assert health.frozen() == ()
    health.on_list(Kind.PODS, 1, 500.0)
    assert health.frozen() == (Kind.PODS,)


def test_a_watch_that_delivers_events_again_is_not_frozen() -> None:
    health = WatchHealth(-1.0)
    for now in (0.0, 100.0, 300.0):
        health.on_list(Kind.SERVICES, 1, now)
    assert health.frozen() == (Kind.SERVICES,)
    health.on_event(Kind.SERVICES, 301.0)
    assert health.frozen() == ()


def test_lists_must_contradict_a_watch_for_three_minutes() -> None:
    health = WatchHealth(0.0)
    health.on_list(Kind.PODS, 0, 10.0)
    health.on_list(Kind.PODS, 1, 20.0)
    health.on_list(Kind.PODS, 1, 199.9)
    assert health.frozen() == ()
    health.on_list(Kind.PODS, 1, 200.0)
    assert health.frozen() == (Kind.PODS,)


def test_an_event_at_the_time_of_a_list_is_no_silence() -> None:
    health = WatchHealth(0.0)
    health.on_list(Kind.PODS, 0, 10.0)
    health.on_event(Kind.PODS, 10.0)
    for now in (20.0, 1000.0):
        health.on_list(Kind.PODS, 1, now)
    assert health.ages(1000.0)[Kind.PODS] == 990.0
    assert health.frozen() == ()  # only the second list of the two contradicts the watch
