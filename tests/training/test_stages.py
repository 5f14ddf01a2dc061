"""The loop of a training stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from avatar_training.stages import Budget, Stage

if TYPE_CHECKING:
    from pathlib import Path


def run(folder: Path, budget: Budget, stop_after: int | None = None) -> tuple[Stage, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    stage = Stage("line", folder, {"model": model}, 1e-2, budget, seed=3)
    for step in stage:
        x = torch.from_numpy(stage.rng(step).standard_normal((8, 4))).float()
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        stage.learn(loss)
        if stop_after is not None and step + 1 == stop_after:
            stage.save()
            break
    return stage, model.weight.detach().clone()


def test_a_resumed_stage_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", Budget(60))
    run(tmp_path / "parts", Budget(60), stop_after=25)
    stage, parts = run(tmp_path / "parts", Budget(60))
    # The step that was interrupted runs again on the saved state: one step more, same numbers.
    assert torch.allclose(whole, parts, atol=0.02)
    assert stage.report()["steps"] == 60


def test_the_loss_improves(tmp_path: Path) -> None:
    stage, _ = run(tmp_path, Budget(400))
    report = stage.report()
    assert report["last"]["loss"] < 0.2 * report["first"]["loss"]


def test_a_finished_stage_runs_no_step(tmp_path: Path) -> None:
    _, first = run(tmp_path, Budget(30))
    stage, again = run(tmp_path, Budget(30))
    assert torch.equal(first, again)
    assert stage.progress == 1.0


def test_a_stage_without_time_ends_before_its_first_step(tmp_path: Path) -> None:
    stage, _ = run(tmp_path, Budget(1000, seconds=1e-9))
    assert stage.report()["steps"] <= 1
    assert stage.report()["ended_by_time"]


@pytest.mark.parametrize("seconds", [math.inf, 1e6])
def test_random_numbers_depend_only_on_seed_and_step(tmp_path: Path, seconds: float) -> None:
    one = Stage("a", tmp_path, {"m": torch.nn.Linear(1, 1)}, 1e-3, Budget(5, seconds), seed=1)
    other = Stage("a", tmp_path, {"m": torch.nn.Linear(1, 1)}, 1e-3, Budget(9), seed=1)
    assert one.rng(4).random() == other.rng(4).random()
    assert one.rng(4).random() != one.rng(5).random()
