"""The command of the Jobs: whatever happens to the preparation, it leaves a result."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from avatar_runtime import settings
from avatar_runtime.tools import prepare_job

if TYPE_CHECKING:
    from pathlib import Path

REPORT = {"verdict": "good", "sentence": "Good.", "frames": 1, "written": {"content_hash": "abc"}}


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let a script stand in for the interpreter that runs the preparation."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport json, os, signal, sys\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def run(tmp_path: Path) -> tuple[int, dict[str, object]]:
    message = tmp_path / "message"
    arguments = ["--out", str(tmp_path / "anna"), "--device", "cpu"]
    status = prepare_job.run(arguments, message)
    return status, json.loads(message.read_bytes())


@pytest.mark.parametrize(
    ("code", "status", "text", "permanent"),
    [
        (
            "print('avatar-runtime: films/a.mp4: does not exist', file=sys.stderr); sys.exit(65)",
            65,
            "films/a.mp4: does",
            True,
        ),
        (
            "print('avatar-runtime: anna: the disk is full', file=sys.stderr); sys.exit(75)",
            75,
            "the disk is full",
            False,
        ),
        ("sys.exit('Traceback')", 1, "Traceback", False),
        ("print('error: bad --crop', file=sys.stderr); sys.exit(2)", 2, "bad --crop", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "it needed more memory", False),
        ("sys.exit(3)", 3, "the preparation ended with exit status 3", False),
        ("pass", 0, "manifest.json was not written", False),
        (
            "print(json.dumps({'verdict': 'refused', 'sentence': 'no face'})); sys.exit(65)",
            65,
            "no face",
            True,
        ),
    ],
    ids=[
        "wrong-input",
        "temporary",
        "broken",
        "usage",
        "killed",
        "silent",
        "nothing-written",
        "refused",
    ],
)
@pytest.mark.slow
def test_a_failure_leaves_its_message(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: str,
    status: int,
    text: str,
    permanent: bool,
) -> None:
    stand_in(monkeypatch, tmp_path, code)
    found, result = run(tmp_path)
    assert found == status
    assert (result["ok"], result["permanent"]) == (False, permanent)
    assert text in str(result["message"])


@pytest.mark.slow
def test_a_success_leaves_what_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    folder.mkdir()
    manifest = {"frames": 1, "width": 640, "height": 480}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stand_in(monkeypatch, tmp_path, f"print(json.dumps({REPORT!r}))")
    status, result = run(tmp_path)
    assert (status, result["ok"], result["content_hash"]) == (0, True, "abc")
    assert (result["frames"], result["width"], result["height"]) == (1, 640, 480)


@pytest.mark.parametrize(
    ("variables", "device"),
    [({}, "cuda"), ({"AVATAR_DEVICE": "cpu"}, "cpu"), ({"AVATAR_DEVICE": "simulated:l4"}, "cpu")],
)
def test_a_job_on_a_gpu_does_not_fall_back_to_cpus(variables: dict[str, str], device: str) -> None:
    assert settings.job_device(variables) == device
