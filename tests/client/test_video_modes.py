"""The client in the modes jpeg and h264, with a runtime on a simulated device."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from tests.runtime.serving import runtime_page

from avatar_client import decoding, errors
from avatar_client.traces import VideoFrame
from localcluster.fakes import callers

if TYPE_CHECKING:
    from numpy.typing import NDArray

AVATARS = Path(__file__).parents[2] / "examples/avatars"


async def _talk(url: str, folder: Path, mode: str) -> dict[str, Any]:
    result = folder / f"{mode}.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_client", "talk", "--url", url, "--every-frame", "--burst"),
        *("--video", mode, "--audio", str(callers.SPEECH), "--json", str(result)),
        *("--out", str(folder / f"{mode}.mp4"), "--sheet", str(folder / f"{mode}.png")),
    )
    assert await process.wait() == 0
    document: dict[str, Any] = json.loads(result.read_text())
    return document


def _frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [
            np.asarray(cv2.cvtColor(f.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2BGR_I420))
            for f in container.decode(video=0)
        ]


@pytest.mark.slow
async def test_both_modes_give_the_same_frames_at_the_same_times(tmp_path: Path) -> None:
    async with runtime_page.runtime(AVATARS) as url:
        results = {mode: await _talk(url, tmp_path, mode) for mode in ("jpeg", "h264")}

    same = ("frames", "frames_dropped", "audio_ms", "video_ms", "max_pts_error_ms", "violations")
    assert {key: results["jpeg"][key] for key in same} == {
        key: results["h264"][key] for key in same
    }
    assert results["h264"]["frames"] == results["h264"]["frames_due"] > 100
    recorded = {mode: _frames(tmp_path / f"{mode}.mp4") for mode in results}
    for one, other in zip(recorded["jpeg"], recorded["h264"], strict=True):
        assert cv2.PSNR(one, other) > 34  # each was compressed twice
    # A simulated device shows the source frames, which hardly move.
    assert results["h264"]["video_kbps"] < 0.3 * results["jpeg"]["video_kbps"]


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x01", b"not a frame", bytes(1000)])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_frame_that_cannot_be_decoded_is_named(codec: str, data: bytes) -> None:
    with pytest.raises(errors.RecordingError, match="frame 7"):
        decoding.Decoder().decode(VideoFrame(7, 280, 0.0, data, codec))
