"""Tests of the decision log writer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avatar_operator.controllers import decision_log
from avatar_operator.controllers.decision_log import DecisionLogWriter
from avatar_operator.core.autoscaling import inputs, scaling
from avatar_operator.core.autoscaling.capacity import Offer, Pod
from avatar_operator.core.autoscaling.decision_lines import KIND, decode
from avatar_operator.core.autoscaling.decision_log import replay
from avatar_operator.core.autoscaling.observation import Demand, Observation
from avatar_operator.core.resources.autoscaling import Autoscaling
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

KEY = ServiceKey("acme", "concierge")


def result(history: scaling.History | None = None, at: float = 5.0) -> inputs.ScalingResult:
    pods = [Pod("p0", 5, 3, True, False, 60.0, 0.1)]
    seen = Observation(pods, [Offer("a", 5, 3)], Demand(gateways=1))
    return inputs.decide(inputs.ScalingInputs(Autoscaling(1, 4), seen, history, at, 1000.0 + at))


async def written(log: DecisionLogWriter) -> None:
    """Let the writer write all queued decisions, and stop it."""
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_each_decision_is_a_line_that_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLogWriter(str(path))
    first = result()
    log.write(KEY, first)
    log.write(KEY, result(first.decision.history, 6.0))
    await written(log)
    lines = [decode(json.loads(line)) for line in path.read_text().splitlines()]
    assert [line.service for line in lines] == ["acme/concierge"] * 2
    assert [again.differs for again in replay(lines)] == [False, False]


async def test_the_log_can_be_written_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log = DecisionLogWriter(decision_log.STDOUT)
    log.write(KEY, result())
    await written(log)
    assert json.loads(capsys.readouterr().out)["kind"] == KIND


async def test_without_a_target_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    log = DecisionLogWriter("")
    log.write(KEY, result())
    await written(log)
    assert capsys.readouterr().out == ""


async def test_lines_over_the_limit_are_dropped_and_the_others_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "MAX_LINES", 2)
    path = tmp_path / "decisions.jsonl"
    log = DecisionLogWriter(str(path))
    last: scaling.History | None = None
    for at in (5.0, 6.0, 7.0):
        made = result(last, at)
        log.write(KEY, made)
        last = made.decision.history
    await written(log)
    log.write(KEY, result(last, 8.0))
    await written(log)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["at"] for line in lines] == [5.0, 6.0, 8.0]
    assert ["history" in line for line in lines] == [True, False, True]


async def test_a_file_that_cannot_be_written_is_logged_and_the_writer_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DecisionLogWriter(str(tmp_path / "missing" / "decisions.jsonl"))
    task = asyncio.create_task(log.run())
    log.write(KEY, result())
    async with asyncio.timeout(10):
        while "decisions dropped count=1" not in caplog.text:
            assert not task.done()
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "cannot write decisions" in caplog.text


async def test_decisions_that_are_queued_during_a_write_are_written_before_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "decisions.jsonl"
    log = DecisionLogWriter(str(path))
    first = result()
    log.write(KEY, first)
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)  # the first line is on its way to the thread
    log.write(KEY, result(first.decision.history, 6.0))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["at"] for line in lines] == [5.0, 6.0]
