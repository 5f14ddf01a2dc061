"""Which faults a seed means."""

from __future__ import annotations

import collections

import pytest

from localcluster.faults import schedule

KINDS = list(schedule.Kind)


def decisions(kind: schedule.Kind, count: int = 2000) -> list[schedule.Fault | None]:
    call = schedule.Call(kind, "PATCH /api/v1/namespaces/a/pods/b")
    return [schedule.decide(seed, call, 0) for seed in range(count)]


def test_a_seed_gives_the_same_faults_in_any_order() -> None:
    calls = [schedule.Call(kind, f"/{n}") for kind in KINDS for n in range(20)]
    forth = {call: schedule.decide(7, call, 1) for call in calls}
    back = {call: schedule.decide(7, call, 1) for call in reversed(calls)}
    assert forth == back
    assert forth != {call: schedule.decide(8, call, 1) for call in calls}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_retried_request_succeeds(kind: schedule.Kind) -> None:
    call = schedule.Call(kind, "/x")
    for seed in range(50):
        attempts = range(schedule.MOST_FAULTS, schedule.MOST_FAULTS + 20)
        assert [schedule.decide(seed, call, attempt) for attempt in attempts] == [None] * 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_the_share_of_failing_attempts_is_as_configured(kind: schedule.Kind) -> None:
    wrong = sum(fault is not None for fault in decisions(kind))
    assert wrong / 2000 == pytest.approx(schedule.SHARE[kind], abs=0.04)


def test_only_writes_get_lost_answers_and_conflicts() -> None:
    for kind in KINDS:
        found = set(decisions(kind))
        writes = {schedule.LoseAnswer(), schedule.Refuse(409)} & found
        assert writes == (
            {schedule.LoseAnswer(), schedule.Refuse(409)} if kind.value == "write" else set()
        )


def test_only_watches_are_cut_and_get_error_events() -> None:
    for kind in KINDS:
        types = {type(fault) for fault in decisions(kind)}
        of_watches = {schedule.Cut, schedule.Expire, schedule.Fail}
        assert of_watches & types == (of_watches if kind is schedule.Kind.WATCH else set())


def test_lost_answers_are_the_most_common_fault_of_writes() -> None:
    counts = collections.Counter(type(fault).__name__ for fault in decisions(schedule.Kind.WRITE))
    del counts["NoneType"], counts["Refuse"]  # Refuse stands for four of them
    assert counts.most_common(1)[0][0] == "LoseAnswer"


def test_too_many_requests_has_a_retry_after() -> None:
    refusals = {
        fault for fault in decisions(schedule.Kind.READ) if isinstance(fault, schedule.Refuse)
    }
    assert {fault.status: fault.retry_after_s for fault in refusals} == {
        429: schedule.RETRY_AFTER_S,
        500: None,
        503: None,
    }
