"""Avatars with alpha over other colours, and with the alpha below the picture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.rendering import (
    blend_device,
    blend_host,
    delivery,
    idle_frames,
    stage_timer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import FrameRequest

_CPU = torch.device("cpu")
_SPEECH = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
_SILENCE = replace(_SPEECH, silent=True)
GREEN = (0, 255, 0)


@pytest.fixture
def cut(assets: Any, tmp_path: Path) -> cache.Avatar:
    """Return the avatar of the tests with alpha: opaque in the middle, clear at the edges."""
    whole = cache.read(assets.avatars / "anna")
    manifest = replace(whole.manifest, background="#204060", pixels="png")
    height, width = manifest.height, manifest.width
    rows, columns = np.indices((height, width))
    distance = np.hypot(rows - height / 2, columns - width / 2) / (width / 2)
    alpha = np.clip((1.3 - distance) * 400, 0, 255).astype(np.uint8)
    weight, under = alpha[..., None] / 255, np.array((0x60, 0x40, 0x20))
    files = []
    for index in range(manifest.frames):
        picture = np.rint(whole.decode(index) * weight + under * (1 - weight)).astype(np.uint8)
        files.append(np.asarray(cv2.imencode(".png", picture)[1], np.uint8))
    pixels, pixel_offsets = cache.pack(files)
    mask = np.asarray(cv2.imencode(".png", alpha)[1], np.uint8)
    masks, mask_offsets = cache.pack([mask] * manifest.frames)
    tensors: dict[str, NDArray[Any]] = {
        "latents": np.asarray(whole.latents),
        "boxes": _rows(whole._boxes),
        "crop_boxes": _rows(whole._crops),
        "masks": np.asarray(whole._masks),
        "mask_offsets": np.asarray(whole._mask_offsets),
        "valid": np.asarray(whole._valid),
        "pixels": pixels,
        "pixel_offsets": pixel_offsets,
        "alpha_pixels": masks,
        "alpha_offsets": mask_offsets,
    }
    cache.write(tmp_path / "cut", manifest, tensors)
    return cache.read(tmp_path / "cut")


def _rows(boxes: list[Any]) -> NDArray[np.int32]:
    return np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], np.int32)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def _decoded(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)


VIEWS: dict[str, dict[str, Any]] = {
    "whole": {},
    "smaller": {"width": 100, "height": 90},
    "larger": {"width": 300, "height": 250},
    "cropped": {"crop": (20, 30, 132, 192), "width": 112, "height": 162},
}
BACKGROUNDS: dict[str, dict[str, Any]] = {
    "green": {"background": GREEN},
    "alpha": {"background": (0, 0, 0), "below": True},
}


def test_the_avatar_knows_its_alpha(cut: cache.Avatar, anna: cache.Avatar) -> None:
    assert (cut.info.has_alpha, anna.info.has_alpha) == (True, False)
    assert cut.backdrop == (0x60, 0x40, 0x20)
    assert cut.alpha(1).shape == (cut.manifest.height, cut.manifest.width)
    assert (cut.alpha(1)[0, 0], cut.alpha(1)[96, 96]) == (0, 255)


@pytest.mark.parametrize("behind", BACKGROUNDS.values(), ids=list(BACKGROUNDS))
@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@torch.inference_mode()
def test_the_device_cuts_out_as_the_host_does(
    cut: cache.Avatar,
    pool: ThreadPoolExecutor,
    request_of: Callable[..., FrameRequest],
    view: dict[str, Any],
    behind: dict[str, Any],
) -> None:
    request = replace(request_of(_SPEECH, source_frame=1), quality=100, **view, **behind)
    noise = np.random.default_rng(1).integers(0, 256, (1, 128, 128, 3), np.uint8)
    face = torch.from_numpy(cv2.GaussianBlur(noise[0], (9, 9), 0)[None])
    composer = blend_device.Composer({"anna": cut}, _CPU, pool, 1 << 24)
    host, device = (
        _decoded(made.start([request], face, stage_timer.start(_CPU)).finish().frames[0].image)
        for made in (
            delivery.HostPostprocessor({"anna": cut}, pool),
            delivery.DevicePostprocessor(composer, pool, _CPU, None),
        )
    )
    assert host.shape == device.shape == (request.image_height, request.width, 3)
    assert cv2.PSNR(host, device) > 38

    whole = blend_host.compose(cut, 1, face.numpy()[0])
    weight = cut.alpha(1)[..., None] / 255
    over = whole + (1 - weight) * (np.array(request.background) - cut.backdrop)
    expected = blend_host.shown(np.clip(np.rint(over), 0, 255).astype(np.uint8), request)
    assert cv2.PSNR(host[: request.height], expected) > 36
    if request.below:
        grey = blend_host.shown(cut.alpha(1), request)
        assert cv2.PSNR(host[request.height :, :, 1], grey) > 45


def test_idle_pictures_are_cached_by_their_background(
    cut: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    frames = idle_frames.IdleFrames({"anna": cut}, 1 << 24)
    plain = replace(request_of(_SILENCE), quality=100)
    stored = idle_pictures.decode(cut, 0)
    assert cv2.PSNR(_decoded(frames.frame(plain).image), stored) > 36
    for background in (GREEN, (255, 255, 255)):
        image = _decoded(frames.frame(replace(plain, background=background)).image)
        assert np.abs(image[0, 0].astype(int) - background).max() <= 4  # JPEG
        assert cv2.PSNR(image[60:130, 60:130], stored[60:130, 60:130]) > 36


def test_raw_images_have_room_for_the_alpha(
    cut: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    request = replace(request_of(_SILENCE), raw=True, **BACKGROUNDS["alpha"])
    raw = idle_frames.IdleFrames({"anna": cut}, 1 << 24).frame(request).image
    assert len(raw) == request.width * request.image_height * 3 // 2
    assert request.image_height == 2 * request.height
