"""The part of a frame that speech changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars import idle_pictures
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.batching.frames import AudioWindow, FrameRequest, Patch
from avatar_runtime.engine.rendering import (
    blend_device,
    blend_host,
    delivery,
    idle_frames,
    patches,
    stage_timer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import Frame

_CPU = torch.device("cpu")
_SPEECH = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
_SILENCE = replace(_SPEECH, silent=True)
MIN_PSNR_DB = 50
"""Between a whole frame and a patch over the picture in silence, both decoded."""

VIEWS = {
    "whole": {},
    "smaller": {"width": 101, "height": 91},
    "larger": {"width": 300, "height": 250},
    "wider and lower": {"width": 256, "height": 120},
    "cropped": {"crop": (20, 30, 132, 192), "width": 112, "height": 162},
    "cropped and larger": {"crop": (40, 50, 180, 190), "width": 256, "height": 320},
}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.mark.parametrize(
    ("changed", "crop", "size", "expected"),
    [
        (Box(40, 50, 60, 70), Box(0, 0, 192, 192), (192, 192), Box(32, 48, 64, 80)),
        (Box(32, 48, 64, 80), Box(0, 0, 192, 192), (192, 192), Box(32, 48, 64, 80)),
        (Box(170, 180, 190, 191), Box(0, 0, 191, 191), (191, 191), Box(160, 176, 191, 191)),
        (Box(40, 50, 60, 70), Box(30, 40, 94, 104), (64, 64), Box(0, 0, 32, 32)),
        (Box(40, 50, 60, 70), Box(100, 0, 192, 192), (92, 192), Box(0, 0, 0, 0)),
        (Box(0, 0, 0, 0), Box(0, 0, 192, 192), (192, 192), Box(0, 0, 0, 0)),
        # Twice the size: a pixel more on each side of the source and of the result.
        (Box(40, 50, 60, 70), Box(0, 0, 192, 192), (384, 384), Box(64, 96, 128, 144)),
    ],
    ids=["inside", "on blocks", "at the edge", "in a crop", "outside", "no face", "larger"],
)
def test_the_rectangle_lies_on_blocks(
    changed: Box, crop: Box, size: tuple[int, int], expected: Box
) -> None:
    assert patches.rectangle(changed, crop, *size) == expected


_LENGTHS = st.integers(16, 120)


@given(st.data(), _LENGTHS, _LENGTHS, _LENGTHS, _LENGTHS)
def test_a_change_reaches_no_pixel_outside_of_the_rectangle(
    data: st.DataObject, source_w: int, source_h: int, width: int, height: int
) -> None:
    x, y = data.draw(st.integers(0, source_w - 1)), data.draw(st.integers(0, source_h - 1))
    changed = Box(
        x, y, data.draw(st.integers(x + 1, source_w)), data.draw(st.integers(y + 1, source_h))
    )
    before = np.zeros((source_h, source_w, 3), np.uint8)
    after = before.copy()
    after[changed.y1 : changed.y2, changed.x1 : changed.x2] = 255
    resized = blend_host.resized(after, width, height)

    box = patches.rectangle(changed, Box(0, 0, source_w, source_h), width, height)

    resized[box.y1 : box.y2, box.x1 : box.x2] = 0
    assert not resized.any()


def _decoded(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _shown(frame: Frame, idle: Frame) -> NDArray[np.uint8]:
    """Return what a client shows that draws a patch over the picture in silence."""
    assert frame.patch is not None
    left, top, width, height = frame.patch.rect
    picture = _decoded(idle.image)
    if width:
        picture[top : top + height, left : left + width] = _decoded(frame.image)
    return picture


@pytest.mark.parametrize("processor", ["host", "device"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@torch.inference_mode()
def test_a_patch_over_the_idle_picture_is_the_whole_frame(
    anna: cache.Avatar,
    pool: ThreadPoolExecutor,
    request_of: Callable[..., FrameRequest],
    view: dict[str, object],
    processor: str,
) -> None:
    count = anna.manifest.frames
    windows = [replace(_SPEECH, mouth_opacity=1.0 if n % 2 else 0.4) for n in range(count)]
    full = [
        replace(request_of(window, source_frame=n), **view)  # type: ignore[arg-type]
        for n, window in enumerate(windows)
    ]
    noise = np.random.default_rng(1).integers(0, 256, (count, 128, 128, 3), np.uint8)
    faces = torch.from_numpy(np.stack([cv2.GaussianBlur(face, (9, 9), 0) for face in noise]))
    made: delivery.Postprocessor = delivery.HostPostprocessor({"anna": anna}, pool)
    if processor == "device":
        composer = blend_device.Composer({"anna": anna}, _CPU, pool, 1 << 24)
        made = delivery.DevicePostprocessor(composer, pool, _CPU, None)

    batch = [*full, *(replace(request, patch=True) for request in full)]
    both = made.start(batch, torch.cat([faces, faces]), stage_timer.start(_CPU)).finish().frames

    silence = idle_frames.IdleFrames({"anna": anna}, 1 << 24)
    for index, (whole, part) in enumerate(zip(both[:count], both[count:], strict=True)):
        assert whole.patch is None
        assert part.patch is not None
        assert part.patch.source_frame == index
        assert len(part.image) < len(whole.image)
        idle = silence.frame(replace(full[index], window=_SILENCE))
        assert cv2.PSNR(_shown(part, idle), _decoded(whole.image)) > MIN_PSNR_DB


def test_a_frame_without_a_face_has_no_patch(
    anna: cache.Avatar, pool: ThreadPoolExecutor, request_of: Callable[..., FrameRequest]
) -> None:
    anna._valid = np.zeros_like(anna._valid)
    request = replace(request_of(_SPEECH, source_frame=2), patch=True)
    face = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    composer = blend_device.Composer({"anna": anna}, _CPU, pool, 1 << 24)
    for made in (
        delivery.HostPostprocessor({"anna": anna}, pool),
        delivery.DevicePostprocessor(composer, pool, _CPU, None),
        delivery.DevicePostprocessor(composer, pool, _CPU, lambda image, quality: image),
    ):
        (frame,) = made.start([request], face, stage_timer.start(_CPU)).finish().frames
        assert (frame.image, frame.patch) == (b"", Patch((0, 0, 0, 0), 2))


def test_in_silence_nothing_differs_from_the_idle_picture(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    last = anna.manifest.frames - 1
    frames = idle_frames.IdleFrames({"anna": anna}, 1 << 20)
    silent = replace(request_of(_SILENCE, source_frame=last + 1), patch=True)
    frame = frames.frame(silent)
    assert (frame.image, frame.patch) == (b"", Patch((0, 0, 0, 0), last))
    # A simulated device shows the picture in silence, in the rectangle of a patch.
    spoken = frames.frame(replace(silent, window=_SPEECH))
    assert spoken.patch is not None
    left, top, width, height = spoken.patch.rect
    below = idle_pictures.decode(anna, last)[top : top + height, left : left + width]
    assert width > 0
    assert cv2.PSNR(_decoded(spoken.image), below) > 30


@pytest.mark.parametrize("is_raw", [False, True])
@torch.inference_mode()
def test_the_host_does_not_crop_again_what_the_device_has_cropped(
    anna: cache.Avatar,
    pool: ThreadPoolExecutor,
    request_of: Callable[..., FrameRequest],
    is_raw: bool,
) -> None:
    view = {"crop": (20, 30, 132, 142), "width": 112, "height": 112, "raw": is_raw}
    request = replace(request_of(_SPEECH), **view)  # type: ignore[arg-type]
    faces = torch.full((1, 128, 128, 3), 99, dtype=torch.uint8)
    composer = blend_device.Composer({"anna": anna}, _CPU, pool, 1 << 24)
    device, host = (
        made.start([request], faces, stage_timer.start(_CPU)).finish().frames[0].image
        for made in (
            delivery.DevicePostprocessor(composer, pool, _CPU, None),
            delivery.HostPostprocessor({"anna": anna}, pool),
        )
    )
    one, other = (
        np.frombuffer(i, np.uint8) if is_raw else _decoded(i).ravel() for i in (device, host)
    )
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).mean() < 0.5
