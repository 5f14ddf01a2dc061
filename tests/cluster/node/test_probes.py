"""What probe results mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.probes import Kind, Verdict, fresh, port_number, probe


def verdicts(kind: Kind, results: list[bool], **thresholds: int) -> list[Verdict]:
    asked = probe(kind, {kind.value: {"tcpSocket": {"port": 1}, **thresholds}})
    assert asked is not None
    streak, seen = fresh(kind), []
    for passed in results:
        streak = streak.with_result(passed, asked)
        seen.append(streak.verdict)
    return seen


def test_a_new_container_is_live_and_not_ready() -> None:
    assert fresh(Kind.LIVENESS).verdict is Verdict.PASSING
    assert fresh(Kind.READINESS).verdict is Verdict.FAILING
    assert fresh(Kind.STARTUP).verdict is Verdict.UNKNOWN


def test_liveness_fails_after_three_failures_in_a_row() -> None:
    p, f = Verdict.PASSING, Verdict.FAILING
    results = [False, False, True, False, False, False]
    assert verdicts(Kind.LIVENESS, results, failureThreshold=3) == [p, p, p, p, p, f]


def test_readiness_requires_its_number_of_successes() -> None:
    p, f = Verdict.PASSING, Verdict.FAILING
    results = [True, True, False, True]
    seen = verdicts(Kind.READINESS, results, successThreshold=2, failureThreshold=1)
    assert seen == [f, p, f, f]


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_a_verdict_changes_only_after_a_complete_streak(
    results: list[bool], good: int, bad: int
) -> None:
    seen = verdicts(Kind.STARTUP, results, successThreshold=good, failureThreshold=bad)
    for i, verdict in enumerate(seen):
        before = seen[i - 1] if i else Verdict.UNKNOWN
        if verdict is not before:
            length = good if verdict is Verdict.PASSING else bad
            assert results[i + 1 - length : i + 1] == [verdict is Verdict.PASSING] * length


def test_defaults_are_those_of_the_api() -> None:
    asked = probe(Kind.READINESS, {"readinessProbe": {"exec": {"command": ["true"]}}})
    assert asked is not None
    assert (asked.initial_delay_s, asked.period_s, asked.timeout_s) == (0, 10, 1)
    assert (asked.success_threshold, asked.failure_threshold, asked.grace_s) == (1, 3, None)
    assert probe(Kind.LIVENESS, {}) is None


@pytest.mark.parametrize(("port", "number"), [(8080, 8080), ("8080", 8080), ("sessions", 9)])
def test_a_port_has_a_number_or_a_name(port: Any, number: int) -> None:
    assert port_number(port, {"ports": [{"name": "sessions", "containerPort": 9}]}) == number


def test_an_unknown_port_name_is_rejected() -> None:
    with pytest.raises(ValueError, match="no port named 'admin'"):
        port_number("admin", {})
