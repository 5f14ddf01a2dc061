"""Faces to JPEG files, on the host's way and on the device's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine import device
from avatar_runtime.engine.rendering import blend_device, delivery, jpeg_encoder, stage_timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import Frame, FrameRequest

_WINDOW = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
_CPU = torch.device("cpu")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def postprocessor_of(
    anna: cache.Avatar, pool: ThreadPoolExecutor
) -> Callable[[str], delivery.Postprocessor]:
    def make(kind: str) -> delivery.Postprocessor:
        if kind == "host":
            return delivery.HostPostprocessor({"anna": anna}, pool)
        composer = blend_device.Composer({"anna": anna}, _CPU, pool, 1 << 20)
        encoder = jpeg_encoder.device_encoder(_CPU) if kind == "device encoder" else None
        return delivery.DevicePostprocessor(composer, pool, _CPU, encoder)

    return make


@pytest.fixture
def batch(request_of: Callable[..., FrameRequest]) -> list[FrameRequest]:
    """Return frames of different sizes: each has its own place in the one copy."""
    asked = [request_of(_WINDOW, source_frame=i) for i in range(3)]
    return [asked[0], replace(asked[1], width=96, height=96), asked[2]]


def _faces(seed: int) -> Tensor:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 128, 128, 3), np.uint8)
    soft = [cv2.GaussianBlur(face, (31, 31), 0) for face in noise]
    return torch.from_numpy(np.stack(soft))


def _image(frame: Frame) -> NDArray[np.int64]:
    decoded = cv2.imdecode(np.frombuffer(frame.image, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(decoded, np.int64)


@pytest.mark.parametrize("kind", ["device", "device encoder"])
@torch.inference_mode()
def test_the_device_delivers_the_frames_of_the_host(
    kind: str, postprocessor_of: Callable[[str], delivery.Postprocessor], batch: list[FrameRequest]
) -> None:
    faces = _faces(0)
    host, ours = (
        postprocessor_of(k).start(batch, faces, stage_timer.start(_CPU)).finish()
        for k in ("host", kind)
    )

    assert [frame.request for frame in ours.frames] == batch
    for expected, made in zip(host.frames, ours.frames, strict=True):
        assert made.image[:2] == b"\xff\xd8"
        difference = np.abs(_image(made) - _image(expected))
        assert difference.shape == (made.request.height, made.request.width, 3)
        # JPEG of quality 90 with one level of difference before it; encoders differ more.
        assert difference.mean() < (0.5 if kind == "device" else 2.5)
    assert set(ours.stages) == set(device.STAGES)
    assert ours.stages["compose"] > 0
    assert ours.stages["jpeg"] > 0


@pytest.mark.parametrize("kind", ["host", "device", "device encoder"])
@torch.inference_mode()
def test_a_batch_may_start_before_the_previous_one_is_finished(
    kind: str, postprocessor_of: Callable[[str], delivery.Postprocessor], batch: list[FrameRequest]
) -> None:
    postprocessor, faces = postprocessor_of(kind), [_faces(1), _faces(2)]
    alone = [postprocessor.start(batch, f, stage_timer.start(_CPU)).finish() for f in faces]
    both = [postprocessor.start(batch, f.clone(), stage_timer.start(_CPU)) for f in faces]

    with ThreadPoolExecutor(1) as other:  # any thread may finish, in any order
        second = other.submit(both[1].finish).result()
        first = other.submit(both[0].finish).result()

    assert [f.image for f in first.frames] == [f.image for f in alone[0].frames]
    assert [f.image for f in second.frames] == [f.image for f in alone[1].frames]


@pytest.mark.parametrize("kind", ["host", "device", "device encoder"])
@torch.inference_mode()
def test_raw_frames_and_images_share_a_batch(
    kind: str, postprocessor_of: Callable[[str], delivery.Postprocessor], batch: list[FrameRequest]
) -> None:
    mixed = [replace(request, raw=index != 1) for index, request in enumerate(batch)]
    faces = _faces(3)
    postprocessor = postprocessor_of(kind)
    images = postprocessor.start(batch, faces, stage_timer.start(_CPU)).finish().frames
    frames = postprocessor.start(mixed, faces, stage_timer.start(_CPU)).finish().frames

    assert frames[1].image == images[1].image
    for frame, image in zip(frames[::2], images[::2], strict=True):
        height, width = frame.request.height, frame.request.width
        planes = np.frombuffer(frame.image, np.uint8).reshape(height * 3 // 2, width)
        shown = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
        assert np.abs(shown.astype(int) - _image(image)).mean() < 3  # JPEG of quality 90


def test_an_encoder_that_fails_its_trial_is_not_used() -> None:
    def broken(picture: Tensor, quality: int) -> Tensor:
        raise RuntimeError("nvJPEG is not there")

    def nonsense(picture: Tensor, quality: int) -> Tensor:
        return torch.zeros(10, dtype=torch.uint8)

    def swapped(picture: Tensor, quality: int) -> Tensor:
        ok, file = cv2.imencode(".jpg", picture.flip(2).contiguous().numpy())
        assert ok
        return torch.from_numpy(file)

    reported = [jpeg_encoder.trial_fault(encode, _CPU) for encode in (broken, nonsense, swapped)]
    assert reported[0] == "RuntimeError: nvJPEG is not there"
    assert reported[1] == "the trial image cannot be decoded"
    assert reported[2] is not None
    assert "levels off, limit 4.0" in reported[2]
