"""The avatar's own pictures, for frames in which nothing is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.rendering import blend_host, idle_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import FrameRequest


@pytest.fixture
def window() -> AudioWindow:
    return AudioWindow(0, 0, np.zeros(1920, np.float32).data.toreadonly(), -4, 6, silent=True)


def test_an_idle_frame_is_the_source_frame_of_the_timeline(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    frames = anna.manifest.frames
    request = request_of(window, source_frame=frames)  # the last frame shows twice

    frame = idle_frames.IdleFrames({"anna": anna}, 0).frame(request)

    expected = blend_host.encode_jpeg(anna.decode(frames - 1), 192, 192, 90)
    assert frame.request is request
    assert frame.jpeg == expected


def test_an_idle_frame_is_encoded_once_while_it_is_cached(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    first, second = (request_of(window, source_frame=i) for i in range(2))
    sizes = [len(idle_frames.IdleFrames({"anna": anna}, 0).frame(r).jpeg) for r in (first, second)]
    kept = idle_frames.IdleFrames({"anna": anna}, sum(sizes) - 1)

    jpeg = kept.frame(first).jpeg
    assert kept.frame(first).jpeg is jpeg
    kept.frame(second)
    assert kept.frame(first).jpeg is not jpeg
    assert kept.frame(first).jpeg == jpeg
