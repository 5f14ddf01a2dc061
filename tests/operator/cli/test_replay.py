"""Tests of `avatar-operator replay`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from avatar_operator.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


def manifest(folder: Path, name: str = "service.yaml", **autoscaling: object) -> Path:
    path = folder / name
    body = {"kind": "AvatarService", "metadata": {"name": "a", "namespace": "b"}}
    spec = {"placement": {"gpuClasses": ["h100-80gb"]}, "autoscaling": autoscaling}
    path.write_text(yaml.safe_dump({**body, "spec": spec}))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the decisions of a simulated service, between lines of another log."""
    trace, out = tmp_path / "trace.csv", tmp_path / "decisions.jsonl"
    trace.write_text("arrival_s,duration_s\n" + "".join(f"{n},40\n" for n in range(20)))
    wanted = manifest(tmp_path, maxReplicas=3, scaleDownAfterSeconds=20)
    arguments = ["simulate", "--trace", str(trace), "--service", str(wanted)]
    assert main([*arguments, "--decisions", str(out)]) == 0
    out.write_text('{"level":"info","message":"AvatarDecision"}\nnoise\n' + out.read_text())
    return out


def test_the_decisions_of_a_log_are_made_again(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "comparison.json"
    assert main(["replay", "--log", str(log), "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert data["decisions"] > 20
    assert (data["differences"], data["passed_over"], data["first_differences"]) == (0, 0, [])
    service = data["services"]["b/a"]
    assert service["pod_hours"] == service["pod_hours_again"] > 0
    assert service["max_pods"] == 3
    assert "decisions, 0 differ" in capsys.readouterr().out


def test_another_policy_shows_what_would_have_been(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = manifest(tmp_path, "other.yaml", maxReplicas=1)
    assert main(["replay", "--log", str(log), "--service", str(other)]) == 0
    reported = capsys.readouterr().out
    assert "most pods 3 logged, 1 now" in reported
    assert "now 1 pod (" in reported
    assert "limited by MaxReplicas" in reported


def test_a_decision_that_differs_is_told_and_fails(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(log.read_text().replace('"decision":{"pods":3', '"decision":{"pods":2'))
    assert main(["replay", "--log", str(log)]) == 1
    assert "logged 2 pods" in capsys.readouterr().out


def test_a_log_that_begins_in_the_middle_is_passed_over_up_to_a_full_line(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[6:9], *lines[2:]]))
    assert main(["replay", "--log", str(log)]) == 0
    assert "3 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "contains no decision"),
        ('{"kind":"AvatarDecision","at":1}\n', "has an invalid decision in line 1"),
        ('\n{"kind":"AvatarDecision","a\n', "has an invalid decision in line 2"),
        ("[] AvatarDecision\n", "contains no decision"),
    ],
)
def test_what_is_no_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    assert main(["replay", "--log", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_files_that_cannot_be_used_are_named(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--log", str(tmp_path / "none")]) == 1
    assert "--log" in capsys.readouterr().err
    fixed = tmp_path / "fixed.yaml"
    body = {"kind": "AvatarService", "metadata": {"name": "a", "namespace": "b"}}
    fixed.write_text(yaml.safe_dump({**body, "spec": {"replicas": 1}}))
    assert main(["replay", "--log", str(log), "--service", str(fixed)]) == 1
    assert "has a fixed number of pods" in capsys.readouterr().err
