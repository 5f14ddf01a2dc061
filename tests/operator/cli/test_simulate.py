"""Tests of `avatar-operator simulate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import yaml

from avatar_operator.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

FIXED = (
    "sessions", "ended_by_operator", "waited", "wait_p99_s", "gpu_hours", "gpu_hours_optimum",
    "reversals", "reaction_p99_s", "max_pods", "settings",
)  # fmt: skip


def service(folder: Path, **spec: object) -> Path:
    path = folder / "service.yaml"
    placement = {"gpuClasses": ["h100-80gb"]}
    body = {"kind": "AvatarService", "metadata": {"name": "a", "namespace": "b"}}
    path.write_text(yaml.safe_dump({**body, "spec": {"placement": placement, **spec}}))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,duration_s\n0,30\n10,60.5\n")
    return path


def test_it_prints_and_writes_the_fixed_figures(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    manifest = service(tmp_path, autoscaling={"minReplicas": 1, "maxReplicas": 3})
    arguments = ["simulate", "--trace", str(trace), "--service", str(manifest), "--seed", "4"]
    assert main([*arguments, "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert set(FIXED) <= set(data)
    assert (data["sessions"], data["ended_by_operator"], data["max_pods"]) == (2, 0, 1)
    assert data["gpu_hours_optimum"] == pytest.approx(70.5 / 3600, abs=1e-4)
    assert data["settings"]["seed"] == 4
    assert "ended_by_operator  0" in capsys.readouterr().out


def test_a_made_trace_is_written_and_can_be_replayed(tmp_path: Path) -> None:
    made = tmp_path / "made.csv"
    arguments = ["simulate", "--generate", "flash", "--sessions", "5", "--seed", "1"]
    assert main([*arguments, "--out", str(made)]) == 0
    assert made.read_text().startswith("arrival_s,duration_s\n")
    manifest = service(tmp_path, autoscaling={"maxReplicas": 2})
    assert main(["simulate", "--trace", str(made), "--service", str(manifest)]) == 0


@pytest.mark.parametrize(
    ("spec", "profiles", "fault"),
    [
        ({"replicas": 2}, None, "must have spec.autoscaling"),
        ({"autoscaling": {"maxReplicas": 2}}, "kind: List\nitems: []\n", "contains no GPUProfile"),
        (
            {"autoscaling": {"maxReplicas": 2}, "placement": {"gpuClasses": ["none"]}},
            None,
            "matches no GPU class",
        ),
    ],
    ids=["fixed", "no-profile", "no-class"],
)
def test_what_cannot_be_simulated_is_told(
    tmp_path: Path,
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, object],
    profiles: str | None,
    fault: str,
) -> None:
    arguments = ["simulate", "--trace", str(trace), "--service", str(service(tmp_path, **spec))]
    if profiles is not None:
        path = tmp_path / "profiles.yaml"
        path.write_text(profiles)
        arguments += ["--profiles", str(path)]
    assert main(arguments) == 1
    assert fault in capsys.readouterr().err


def test_a_missing_option_and_a_missing_file_are_named(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--trace", str(trace)]) == 1
    assert "--service" in capsys.readouterr().err
    manifest = service(tmp_path, autoscaling={"maxReplicas": 2})
    absent = tmp_path / "absent.csv"
    assert main(["simulate", "--trace", str(absent), "--service", str(manifest)]) == 1
    assert "absent.csv" in capsys.readouterr().err


def test_a_picture_shows_sessions_pods_and_cost(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "timeline.svg"
    manifest = service(tmp_path, autoscaling={"maxReplicas": 3})
    arguments = ["simulate", "--trace", str(trace), "--service", str(manifest)]
    assert main([*arguments, "--plot", str(out)]) == 0
    drawn = ElementTree.fromstring(out.read_text())
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"sessions", "slots", "waiting", "h100-80gb", "cost per hour"} <= texts
    assert main([*arguments, "--plot", str(tmp_path / "timeline.png")]) == 1
    assert "must end in .svg" in capsys.readouterr().err
