"""The memory of a pass does not depend on the length of the video."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.preparation import clips, programs

if TYPE_CHECKING:
    from pathlib import Path


def measure(path: Path) -> dict[str, Any]:
    done = programs.run("source_memory", str(path), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts"])
def test_three_minutes_need_no_more_than_the_beginning(tmp_path: Path, name: str) -> None:
    coding = clips.with_options(clips.FORMATS[name], sound=False)
    figures = measure(clips.write(tmp_path / name, clips.numbered(180 * 25), coding))
    assert figures["frames"] == 180 * 25
    # 4,500 frames of 320x240 have 1 GiB.
    assert figures["last_mib"] - figures["first_mib"] < 16
    assert figures["peak_mib"] - figures["first_mib"] < 16


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_4k_holds_few_frames(tmp_path: Path) -> None:
    """10 seconds; a frame of 3840x2160 in yuv420p has 12 MiB, decoders hold about 20."""
    few = [
        clips.make_frame(picture, clips.Coding())
        for picture in clips.moving(clips.noise(2160, 3840), 5, 30)
    ]
    figures = measure(clips.write(tmp_path / "a.mp4", (few[i % 5] for i in range(250))))
    assert figures["frames"] == 250
    assert figures["peak_mib"] < 700
    assert figures["last_mib"] - figures["first_mib"] < 64
