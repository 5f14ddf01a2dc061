"""The avatar's own pictures, for frames in which nothing is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
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
    assert frame.image == expected


def test_an_idle_frame_is_encoded_once_while_it_is_cached(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    first, second = (request_of(window, source_frame=i) for i in range(2))
    sizes = [len(idle_frames.IdleFrames({"anna": anna}, 0).frame(r).image) for r in (first, second)]
    kept = idle_frames.IdleFrames({"anna": anna}, sum(sizes) - 1)

    jpeg = kept.frame(first).image
    assert kept.frame(first).image is jpeg
    kept.frame(second)
    assert kept.frame(first).image is not jpeg
    assert kept.frame(first).image == jpeg


def test_a_raw_idle_frame_has_the_planes_of_the_picture(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    request = replace(request_of(window, source_frame=1), raw=True, width=96, height=64)
    frames = idle_frames.IdleFrames({"anna": anna}, 1 << 20)

    raw = frames.frame(request).image
    jpeg = frames.frame(replace(request, raw=False)).image

    planes = np.frombuffer(raw, np.uint8).reshape(96, 96)
    shown = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
    source = cv2.resize(anna.decode(1), (96, 64), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(shown, source) > 32
    assert jpeg[:2] == b"\xff\xd8"
    assert frames.frame(request).image is raw


def test_parts_of_a_picture_are_cached_apart(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    request = request_of(window)
    frames = idle_frames.IdleFrames({"anna": anna}, 1 << 20)
    images = {
        frames.frame(replace(request, crop=crop)).image
        for crop in (None, (0, 0, 96, 96), (96, 96, 192, 192))
    }
    assert len(images) == 3


def test_raw_pictures_do_not_evict_jpeg_images(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest], window: AudioWindow
) -> None:
    request = request_of(window)
    size = len(idle_frames.IdleFrames({"anna": anna}, 0).frame(request).image)
    frames = idle_frames.IdleFrames({"anna": anna}, size)
    jpeg = frames.frame(request).image
    for index in range(3):
        frames.frame(replace(request_of(window, source_frame=index), raw=True))
    assert frames.frame(request).image is jpeg
