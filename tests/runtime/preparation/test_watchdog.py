"""A decoder that does not return ends the process that prepares, and no other one."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from avatar_runtime.preparation import sources
from avatar_runtime.preparation.sources import watchdog

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import sys
from avatar_runtime.preparation import command, source, sources
from avatar_runtime.preparation.sources import files, watchdog
files.GuardedFile.check = lambda file: None  # the other time limit: that of reading
watchdog.install(command._end_process)
limits = source.SourceLimits(frame_seconds=float(sys.argv[2]))
sources.open(sys.argv[1], source.SourceOptions(limits=limits))
"""


@pytest.fixture(scope="module")
def slow_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A progressive JPEG of 64 megapixels: each of its scans visits all of them."""
    path = tmp_path_factory.mktemp("photos") / "slow.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (500, 500), np.uint8)
    picture = cv2.resize(noise, (8000, 8000), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "status"), [(0.05, 75), (60.0, 0)])
def test_a_picture_that_takes_too_long_ends_the_process(
    slow_photo: Path, seconds: float, status: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(slow_photo), str(seconds)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    if status:
        assert f"{slow_photo}: takes over 0.05 s to decode one picture" in done.stderr


def test_a_library_is_never_ended(slow_photo: Path) -> None:
    assert sources.open(slow_photo).info.kind == "photo"


def test_no_thread_is_left_of_a_watched_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_on_late", lambda *_: None)
    before = threading.active_count()
    for _ in range(100):
        with watchdog.watching(tmp_path, 60.0):
            assert threading.active_count() == before + 1
        assert threading.active_count() == before
