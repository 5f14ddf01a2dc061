"""The connection to an upstream: states and tries."""

from __future__ import annotations

import itertools

import pytest

from avatar_runtime.errors import IllegalEvent
from avatar_runtime.protocol.bridge.link_state import (
    MAX_FAILURES,
    STABLE_S,
    TRANSITIONS,
    Link,
    LinkState,
    LinkStep,
    UpstreamFault,
    advance,
)

LOST = UpstreamFault("upstream_unavailable", "lost")


@pytest.mark.parametrize(("state", "step"), list(itertools.product(LinkState, LinkStep)))
def test_the_table_has_every_allowed_step(state: LinkState, step: LinkStep) -> None:
    if step in TRANSITIONS[state]:
        assert advance(state, step) is TRANSITIONS[state][step]
    else:
        with pytest.raises(IllegalEvent):
            advance(state, step)


def open_link(now: float) -> Link:
    link = Link(now)
    link.connect()
    link.opened()
    link.greeted(now)
    return link


def test_the_third_failed_try_is_the_last_and_pauses_grow() -> None:
    link, now, pauses = Link(10.0), 10.0, []
    for _ in range(MAX_FAILURES):
        assert link.connects_at is not None
        pauses.append(link.connects_at - now)
        now = link.connects_at
        link.connect()
        assert link.connects_at is None
        link.lost(LOST, now, 1.0)
    assert link.is_closed
    assert link.connects_at is None
    assert pauses == [0.0, 0.5, 1.0]


def test_a_connection_that_was_stable_is_no_failed_try() -> None:
    link = open_link(0.0)
    for number in range(5):
        link.lost(LOST, (number + 1) * 100.0, 1.0)
        assert link.connects_at is not None
        link.connect()
        link.opened()
        link.greeted((number + 1) * 100.0 + 1)
    assert link.connections == 6


def test_a_connection_that_does_not_last_is_a_failed_try() -> None:
    link = open_link(0.0)
    for number in range(MAX_FAILURES):
        assert not link.is_closed
        link.lost(LOST, number + STABLE_S / 2, 1.0)
        if number < MAX_FAILURES - 1:
            link.connect()
            link.opened()
            link.greeted(number + STABLE_S / 2)
    assert link.is_closed


def test_a_refusal_is_final_and_a_rate_limit_sets_the_pause() -> None:
    link = Link(0.0)
    link.connect()
    link.lost(UpstreamFault("upstream_rate_limited", "429", retry_after_s=4.0), 0.0, 0.0)
    assert link.connects_at == 4.0
    link.connect()
    link.lost(UpstreamFault("upstream_rate_limited", "429", retry_after_s=9999.0), 0.0, 0.0)
    assert link.connects_at == 30.0
    link.connect()
    link.lost(UpstreamFault("upstream_refused", "401", is_final=True), 0.0, 0.0)
    assert link.is_closed
    link.close()
