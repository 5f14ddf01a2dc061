"""The client in the modes jpeg, h264 and fmp4, with a runtime on a simulated device."""

from __future__ import annotations

import asyncio
import itertools
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


MODES = ("jpeg", "h264", "fmp4")
MIN_PSNR_DB = 34
"""Between frames of two modes, each of which was compressed twice: by the server, and here."""


@pytest.mark.slow
async def test_all_modes_give_the_same_frames_at_the_same_times(tmp_path: Path) -> None:
    async with runtime_page.runtime(AVATARS) as url:
        results = {mode: await _talk(url, tmp_path, mode) for mode in MODES}

    same = ("frames", "frames_dropped", "audio_ms", "video_ms", "max_pts_error_ms", "violations")
    for one, other in itertools.combinations(MODES, 2):
        assert {key: results[one][key] for key in same} == {
            key: results[other][key] for key in same
        }
    assert results["h264"]["frames"] == results["h264"]["frames_due"] > 100
    assert (results["jpeg"]["audio_unchanged"], results["fmp4"]["audio_unchanged"]) == (True, None)
    # In a file the avatar has moved on before the response, so that its pictures are others.
    recorded = {mode: _frames(tmp_path / f"{mode}.mp4") for mode in MODES}
    for left, right in zip(recorded["jpeg"], recorded["h264"], strict=True):
        assert cv2.PSNR(left, right) > MIN_PSNR_DB
    assert len(recorded["fmp4"]) == len(recorded["jpeg"])
    # A simulated device shows the source frames, which hardly move.
    assert results["h264"]["video_kbps"] < 0.3 * results["jpeg"]["video_kbps"]
    assert results["fmp4"]["video_kbps"] < 0.35 * results["jpeg"]["video_kbps"]  # with sound
    sounds = {mode: _sound(tmp_path / f"{mode}.mp4") for mode in MODES}
    for mode in ("h264", "fmp4"):
        assert _lag(sounds["jpeg"], sounds[mode]) == 0


def _sound(path: Path) -> NDArray[np.float32]:
    """Return the sound of a recording at 24 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", 24_000)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def _lag(one: NDArray[np.float32], other: NDArray[np.float32]) -> int:
    """Return by how many samples the other sound is later, at most 1000."""
    length = min(len(one), len(other)) - 2000
    middle = other[1000 : 1000 + length]
    likeness = [float(np.dot(one[at : at + length], middle)) for at in range(2001)]
    return 1000 - int(np.argmax(likeness))


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x01", b"not a frame", bytes(1000)])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_frame_that_cannot_be_decoded_is_named(codec: str, data: bytes) -> None:
    with pytest.raises(errors.RecordingError, match="frame 7"):
        decoding.Decoder().decode(VideoFrame(7, 280, 0.0, data, codec))
