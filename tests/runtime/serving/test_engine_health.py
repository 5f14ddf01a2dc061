from __future__ import annotations

import pytest

from avatar_runtime.serving.engine_health import FAILING_S, HUNG_S, Batch, EngineHealth


@pytest.fixture
def health() -> EngineHealth:
    return EngineHealth()


def test_an_engine_without_batches_has_no_problem(health: EngineHealth) -> None:
    assert health.problem(1e9) is None


def test_a_batch_that_runs_too_long_is_a_problem_until_it_ends(health: EngineHealth) -> None:
    first, second = Batch((), 4, 100.0), Batch((), 4, 110.0)
    health.started(first)
    health.started(second)
    assert health.problem(100.0 + HUNG_S) is None
    assert health.problem(101.0 + HUNG_S) == "a batch has been running for 31 s"
    health.ended(first)
    assert health.problem(101.0 + HUNG_S) is None
    assert health.problem(112.0 + HUNG_S) == "a batch has been running for 32 s"
    health.ended(second)
    assert health.problem(1e9) is None


def test_failures_are_a_problem_after_a_time_without_a_success(health: EngineHealth) -> None:
    health.failed(100.0)
    health.failed(120.0)
    assert health.problem(100.0 + FAILING_S) is None
    assert health.problem(101.0 + FAILING_S) == "every batch has failed for 31 s"
    health.succeeded()
    assert health.problem(1e9) is None
    health.failed(200.0)
    assert health.problem(200.0 + FAILING_S) is None


def test_an_unexpected_error_stays_a_problem(health: EngineHealth) -> None:
    health.stopped(KeyError("x"))
    health.succeeded()
    assert health.problem(0.0) == "the batcher stopped: KeyError"
