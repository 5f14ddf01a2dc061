from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest

from avatar_client import errors, record
from avatar_client.traces import Response, Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _responses(messages: Callable[..., list[dict[str, Any]]], pcm: bytes, n: int) -> list[Response]:
    trace = Trace(keep_media=True)
    for message in messages(pcm, n):
        trace.receive(message, 0.0)
    return list(trace.responses.values())


def _click_at(samples: int, click: int) -> bytes:
    pcm = np.zeros(samples, np.int16)
    pcm[click : click + 480] = 20000
    return pcm.tobytes()


def test_file_times_are_the_times_of_the_sample_counter(
    messages: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    responses = _responses(messages, bytes(2 * (960 * 24 + 500)), 2)
    made = record.write_mp4(responses, tmp_path / "a.mp4")
    assert (made.frames, made.fps) == (50, 25.0)
    assert made.max_pts_error_ms < 0.01
    assert made.video_ms == pytest.approx(2000)
    # The first response is padded to whole frames, the last ends with its sound.
    # MP4 counts the length of a track in whole milliseconds.
    assert made.audio_ms == pytest.approx(1000 + 24 * 40 + 500 / 24, abs=1)
    assert made.audio_start_ms == pytest.approx(0, abs=0.01)


def test_sound_stays_where_it_was_on_the_timeline(
    messages: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    responses = _responses(messages, _click_at(24000, 12000), 1)
    record.write_mp4(responses, tmp_path / "a.mp4")
    loud = []
    with av.open(str(tmp_path / "a.mp4")) as container:
        for frame in container.decode(audio=0):
            levels = np.abs(frame.to_ndarray()[0])
            at = float(frame.pts * frame.time_base)
            loud += [at + index / 24000 for index in np.nonzero(levels > 0.3)[0]]
    assert loud[0] == pytest.approx(0.5, abs=0.005)


def test_the_frame_before_a_dropped_one_is_shown_longer(
    messages: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    (response,) = _responses(messages, bytes(2 * 960 * 5), 1)
    del response.frames[2]
    made = record.write_mp4([response], tmp_path / "a.mp4")
    assert (made.frames, made.max_pts_error_ms < 0.01) == (4, True)
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [round(float(f.pts * f.time_base) * 1000) for f in container.decode(video=0)]
    assert times == [0, 40, 120, 160]


def test_the_sheet_spreads_over_all_responses(
    messages: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    record.write_sheet(
        _responses(messages, bytes(2 * 960 * 30), 2), tmp_path / "sheet.png", count=12
    )
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape == (3 * 192, 5 * 256, 3)
    shades = [int(sheet[96, column * 256 + 200].mean()) for column in range(5)]
    assert shades == sorted(set(shades))
    assert sheet[2 * 192 + 96, 4 * 256 + 200].mean() == 0


def test_a_recording_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.RecordingError, match="no frame"):
        record.write_mp4([], tmp_path / "a.mp4")
    with pytest.raises(errors.RecordingError, match="no frame"):
        record.write_sheet([], tmp_path / "a.png")
