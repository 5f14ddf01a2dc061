"""Which faults a seed means."""

from __future__ import annotations

import collections

import pytest

from localcluster import faults

KINDS = list(faults.Kind)


def decisions(kind: faults.Kind, count: int = 2000) -> list[faults.Fault | None]:
    call = faults.Call(kind, "PATCH /api/v1/namespaces/a/pods/b")
    return [faults.decide(seed, call, 0) for seed in range(count)]


def test_a_seed_means_the_same_faults_in_any_order() -> None:
    calls = [faults.Call(kind, f"/{n}") for kind in KINDS for n in range(20)]
    forth = {call: faults.decide(7, call, 1) for call in calls}
    back = {call: faults.decide(7, call, 1) for call in reversed(calls)}
    assert forth == back
    assert forth != {call: faults.decide(8, call, 1) for call in calls}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_request_that_is_tried_again_gets_through(kind: faults.Kind) -> None:
    call = faults.Call(kind, "/x")
    for seed in range(50):
        attempts = range(faults.MOST_FAULTS, faults.MOST_FAULTS + 20)
        assert [faults.decide(seed, call, attempt) for attempt in attempts] == [None] * 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_as_many_attempts_go_wrong_as_the_share_says(kind: faults.Kind) -> None:
    wrong = sum(fault is not None for fault in decisions(kind))
    assert wrong / 2000 == pytest.approx(faults.SHARE[kind], abs=0.04)


def test_answers_are_lost_and_conflicts_made_up_for_writes_only() -> None:
    for kind in KINDS:
        found = set(decisions(kind))
        writes = {faults.LoseAnswer(), faults.Refuse(409)} & found
        assert writes == (
            {faults.LoseAnswer(), faults.Refuse(409)} if kind.value == "write" else set()
        )


def test_watches_alone_are_cut_and_told_of_errors() -> None:
    for kind in KINDS:
        types = {type(fault) for fault in decisions(kind)}
        of_watches = {faults.Cut, faults.Expire, faults.Fail}
        assert of_watches & types == (of_watches if kind is faults.Kind.WATCH else set())


def test_lost_answers_are_the_most_common_fault_of_writes() -> None:
    counts = collections.Counter(type(fault).__name__ for fault in decisions(faults.Kind.WRITE))
    del counts["NoneType"], counts["Refuse"]  # Refuse stands for four of them
    assert counts.most_common(1)[0][0] == "LoseAnswer"


def test_too_many_requests_comes_with_a_time_to_wait() -> None:
    refusals = {fault for fault in decisions(faults.Kind.READ) if isinstance(fault, faults.Refuse)}
    assert {fault.status: fault.retry_after_s for fault in refusals} == {
        429: faults.RETRY_AFTER_S,
        500: None,
        503: None,
    }
