"""The drawn clip: a face that a detector finds, and a mouth that moves only in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import pytest

from avatar_runtime.preparation import detectors
from avatar_training import clip

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_detector_finds_the_drawn_face_and_its_open_mouth(tmp_path: Path) -> None:
    path = tmp_path / "mira.mp4"
    clip.write_clip(path, "mira")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(frames) == clip.FRAMES
    closed, opened = 0, 13
    assert clip.opening(closed, clip.FRAMES) == 0
    assert clip.opening(opened, clip.FRAMES) > 0.5
    faces = detectors.open_detector().detect([frames[closed], frames[opened]])
    assert [len(found) for found in faces] == [1, 1]
    assert faces[0][0].lip_gap < 0.02 < faces[1][0].lip_gap
