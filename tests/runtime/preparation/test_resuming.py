"""Tests of a preparation that is killed and started again, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.avatars import work_folder
from avatar_runtime.preparation import staging

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

_FRAMES = 160  # four chunks, so that much is left to do after the second one
_FILES = ("manifest.json", "avatar.safetensors", "pixels.safetensors", "preview.jpg")
_DEADLINE_S = 240


def _start(model: Path, clip: Path, out: Path) -> subprocess.Popen[str]:
    out.parent.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "avatar_runtime", "prepare", "--source", str(clip),
        "--model", str(model), "--out", str(out), "--consent", "NASA, public domain",
        "--device", "cpu",
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_heed_sigint,
    )


def _heed_sigint() -> None:
    """Undo what shells do to the programs that they start in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop_when(path: Path, process: subprocess.Popen[str], number: signal.Signals) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not path.exists():
        assert process.poll() is None, f"ended before {path.name} was there"
        assert time.monotonic() < deadline, f"{path.name} is not there after {_DEADLINE_S} s"
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=_DEADLINE_S)


def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(
    assets: Any, write_clip: Any, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip", _FRAMES)
    whole = _start(assets.model, clip, tmp_path / "one" / "eve")
    text = whole.communicate(timeout=_DEADLINE_S)[0]
    assert whole.returncode == 0, text
    out = tmp_path / "two" / "eve"
    work = work_folder.path_of(out)
    for chunk, number in (
        ("seen-000000.safetensors", signal.SIGKILL),
        ("made-000000.safetensors", signal.SIGKILL),
        ("made-000001.safetensors", signal.SIGINT),
    ):
        process = _start(assets.model, clip, out)
        _stop_when(work / chunk, process, number)
        assert process.returncode == (-number if number is signal.SIGKILL else 130)
        assert not out.exists()
    kept = (work / "seen-000000.safetensors").stat().st_mtime_ns
    last = _start(assets.model, clip, out)
    _wait_until(out / "manifest.json", last, work / "seen-000000.safetensors", kept)
    text = last.communicate(timeout=_DEADLINE_S)[0]
    assert last.returncode == 0
    assert "an earlier run of this command was continued" in text
    for name in _FILES:
        assert (out / name).read_bytes() == (tmp_path / "one" / "eve" / name).read_bytes(), name


def _wait_until(path: Path, process: subprocess.Popen[str], chunk: Path, written: int) -> None:
    """Wait for the avatar; meanwhile the finished chunk must not be written again."""
    deadline = time.monotonic() + _DEADLINE_S
    while not path.exists():
        assert process.poll() is None or path.exists()
        assert time.monotonic() < deadline
        try:
            assert chunk.stat().st_mtime_ns == written
        except FileNotFoundError:
            return  # removed at the end
        time.sleep(0.01)


def test_chunks_are_discarded_unless_a_process_uses_them(tmp_path: Path) -> None:
    with staging.opened(tmp_path / "eve", "key") as work:
        work_folder.discard(tmp_path / "eve")
        assert work.folder.is_dir()
    work_folder.discard(tmp_path / "eve")
    assert list(tmp_path.iterdir()) == []
    work_folder.discard(tmp_path / "eve")
