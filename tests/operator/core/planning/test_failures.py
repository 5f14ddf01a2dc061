"""The record of failures: its delays, its rounds and its place in the status."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.planning import failures
from avatar_operator.core.planning.failures import FailedPod, Failure
from avatar_operator.core.planning.fleet import Fleet

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenarios

AT = 1_767_225_600.0
FAILURE = Failure("h1", "rtx-4090", 2, 3, AT, 4, "p7", "exit code 1")


@pytest.mark.parametrize(
    ("rounds", "delay_s"),
    [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (10**6, 300)],
)
def test_each_round_doubles_the_delay_up_to_five_minutes(rounds: int, delay_s: float) -> None:
    failure = replace(FAILURE, rounds=rounds)
    assert failure.retry_at == AT + delay_s
    assert failure.last_retry_at == AT + 300


def test_the_delay_of_services_that_yield_is_five_seconds() -> None:
    assert failures.YIELD_S == 5.0


def test_the_status_keeps_a_failure() -> None:
    everywhere = replace(FAILURE, gpu_class="")
    rendered = failures.to_status([everywhere, FAILURE])
    assert rendered[1] == {
        "specHash": "h1",
        "gpuClass": "rtx-4090",
        "rounds": 2,
        "pods": 3,
        "time": "2026-01-01T00:00:00Z",
        "gpus": 4,
        "pod": "p7",
        "message": "exit code 1",
    }
    assert "gpuClass" not in rendered[0]
    assert failures.read_failures({"failures": rendered}) == (everywhere, FAILURE)


def test_an_empty_record_is_one_pod_in_one_round_at_no_time() -> None:
    assert failures.read_failures({"failures": [{}]}) == (Failure("", "", 1, 1, 0.0, 0, "", ""),)


@pytest.mark.parametrize(
    ("field", "low", "default"), [("rounds", 1, 1), ("pods", 1, 1), ("gpus", 0, 0)]
)
def test_numbers_of_a_record_have_bounds(field: str, low: int, default: int) -> None:
    def read(value: int) -> object:
        (found,) = failures.read_failures({"failures": [{field: value}]})
        return getattr(found, field)

    assert (read(low), read(10**6)) == (low, 10**6)
    assert (read(low - 1), read(10**6 + 1)) == (default, default)


def kept(make: Make, failure: Failure, **pod: object) -> bool:
    fleet = Fleet((make.pod(**pod),), (), (), (), ())  # type: ignore[arg-type]
    found = failures.still_valid([failure], fleet, "h1")
    assert found in ((), (failure,))
    return bool(found)


def test_a_failure_of_another_spec_is_forgotten() -> None:
    none = Fleet((), (), (), (), ())
    assert failures.still_valid([FAILURE, replace(FAILURE, spec_hash="h2")], none, "h1") == (
        FAILURE,
    )


@pytest.mark.parametrize(
    ("created_at", "valid"), [(AT - 2, True), (AT - 1, True), (AT - 0.5, False), (AT + 1, False)]
)
def test_only_a_later_pod_disproves_a_failure(make: Make, created_at: float, valid: bool) -> None:
    everywhere = replace(FAILURE, gpu_class="")
    assert kept(make, everywhere, created_at=created_at) is valid
    assert kept(make, FAILURE, created_at=created_at) is valid


def test_a_failure_on_a_class_is_disproved_by_a_pod_on_a_node_of_it(make: Make) -> None:
    assert not kept(make, FAILURE, created_at=AT, ready=False)
    assert kept(make, FAILURE, created_at=AT, node="")
    assert kept(make, FAILURE, created_at=AT, gpu_class="a100-80gb")


def test_a_failure_everywhere_is_disproved_by_a_ready_pod_only(make: Make) -> None:
    everywhere = replace(FAILURE, gpu_class="")
    assert kept(make, everywhere, created_at=AT, ready=False)
    assert not kept(make, everywhere, created_at=AT, node="", gpu_class="a100-80gb")


def test_pods_of_one_round_are_counted_and_the_next_round_follows_the_delay(make: Make) -> None:
    pod = make.pod("p1")

    def recorded(now: float, *blamed: str | None) -> tuple[Failure, ...]:
        failed = [FailedPod(pod, "no", gpu_class) for gpu_class in blamed]
        return failures.record([FAILURE], failed, (), "h1", now)

    def next_one(rounds: int, pods: int, now: float) -> Failure:
        return Failure("h1", "rtx-4090", rounds, pods, now, 0, "p1", "no")

    assert recorded(AT + 19, "rtx-4090") == (next_one(2, 4, AT + 19),)
    assert recorded(AT + 20, "rtx-4090") == (next_one(3, 1, AT + 20),)
    assert recorded(AT + 19, "rtx-4090", "rtx-4090") == (next_one(2, 5, AT + 19),)
    assert recorded(AT + 19, None) == (FAILURE,)
    assert recorded(AT, None, "b", "a") == (
        Failure("h1", "a", 1, 1, AT, 0, "p1", "no"),
        Failure("h1", "b", 1, 1, AT, 0, "p1", "no"),
        FAILURE,
    )


def test_a_failure_keeps_how_many_gpus_its_class_has(make: Make, scenarios: Scenarios) -> None:
    pools = scenarios(gpus=5).plan().pools
    (pool,) = (pool for pool in pools if pool.gpu_class == "rtx-4090")
    assert pool.stock.total == 5
    (found,) = failures.record([], [FailedPod(make.pod(), "no", "rtx-4090")], pools, "h1", AT)
    assert found.gpus == 5
