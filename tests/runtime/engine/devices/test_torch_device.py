"""The real devices: the CPU here, CUDA where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from avatar_runtime import errors
from avatar_runtime.audio import utterance
from avatar_runtime.avatars import cache
from avatar_runtime.engine import calibration, device
from avatar_runtime.engine.devices import torch_device
from avatar_runtime.engine.devices.factory import open_device
from avatar_runtime.engine.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from avatar_runtime.batching.frames import AudioWindow, Frame, FrameRequest

_EXAMPLES = Path(__file__).parents[4] / "examples"


def _windows(frames: int) -> list[AudioWindow]:
    rng = np.random.default_rng(0)
    speech = utterance.Utterance(16_000, context_s=3)
    speech.append(rng.integers(-9000, 9000, frames * 640, "<i2").tobytes())
    speech.finish()
    return list(speech.take())


async def _frames(
    name: str,
    assets: SimpleNamespace,
    request_of: Callable[..., FrameRequest],
    options: device.ModelOptions | None = None,
    threads: int = 1,
) -> list[Frame]:
    requests = [request_of(w, source_frame=w.frame_index) for w in _windows(5)]
    opened = open_device(name, threads=threads, options=options)
    engine = Engine(opened, assets.model, assets.avatars, 4)
    await engine.start()
    precision = (options and options.precision) or {"cpu": "fp32", "cuda": "fp16"}[name]
    assert engine.model.variant == f"v15/sd-vae/{precision}"
    assert engine.curve is not None
    assert all(ms > 0 for _, ms in engine.curve.frame_batch_ms)
    assert 0 < engine.memory().used_bytes < engine.memory().total_bytes
    frames = [*await engine.run(requests[:2]), *await engine.run(requests[2:])]
    await engine.stop()
    return frames


@pytest.mark.slow
async def test_the_cpu_renders_frames_of_the_avatar(
    assets: SimpleNamespace, request_of: Callable[..., FrameRequest]
) -> None:
    frames = await _frames("cpu", assets, request_of)

    shapes = [_image(frame).shape for frame in frames]
    assert shapes == [(192, 192, 3)] * 5


def _psnr(ours: Frame, plain: Frame, avatar: cache.Avatar) -> float:
    """Return the distance inside the mask alone: the rest is the avatar's own picture."""
    index = cache.fold(ours.request.source_frame, avatar.manifest.frames)
    box, covered = avatar.box(index), avatar.mask(index) > 0
    a, b = (_image(f)[box.y1 : box.y2, box.x1 : box.x2][covered] for f in (ours, plain))
    return float(10 * np.log10(255**2 / max(1e-9, float(((a - b) ** 2).mean()))))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "floor_db"), [("bf16", 50.0), ("fp16", 60.0)])
@torch.inference_mode()
def test_half_precisions_generate_the_faces_of_the_full_one(
    precision: str, floor_db: float
) -> None:
    """With the demo's trained weights: 55 dB and 65 dB when this was written."""
    avatar = cache.read(_EXAMPLES / "avatars/anna")
    plain, half = (_demo_faces(avatar, chosen) for chosen in ("fp32", precision))

    drawn = slice(plain.shape[1] // 2, None)  # the lower half alone is the model's own
    error = float(((plain[:, drawn] - half[:, drawn]) ** 2).mean())
    assert 10 * np.log10(255**2 / error) > floor_db


def _demo_faces(avatar: cache.Avatar, precision: str) -> np.ndarray:
    opened = torch_device.TorchDevice("cpu", threads=1, options=device.ModelOptions(precision))
    assert opened.load(_EXAMPLES / "models/demo").variant == f"v15/sd-vae/{precision}"
    assert opened._model is not None
    made = opened._model
    latents = torch.from_numpy(np.asarray(avatar.latents[:3])).to(made.dtype)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    features = made.encode_audio([noise])[0]
    tokens = torch.stack([made.window(features, first, 50) for first in (-4, 20, 44)])
    faces = made.decode(made.predict(latents, tokens)).numpy()
    opened.close()
    return np.asarray(faces, float)


async def test_an_engine_runs_in_another_precision(
    assets: SimpleNamespace, anna: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    plain = await _frames("cpu", assets, request_of)
    half = await _frames("cpu", assets, request_of, device.ModelOptions("bf16"))

    distances = [_psnr(a, b, anna) for a, b in zip(half, plain, strict=True)]
    assert 30 < min(distances) < 60  # the seeded weights' faces are noise: JPEG adds to it


@pytest.mark.gpu
async def test_cuda_renders_what_the_cpu_renders(
    assets: SimpleNamespace, anna: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    here = await _frames("cpu", assets, request_of)
    there = await _frames("cuda", assets, request_of)

    assert min(_psnr(a, b, anna) for a, b in zip(there, here, strict=True)) > 40


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
async def test_cuda_captures_every_bucket_and_keeps_two_batches_apart(
    assets: SimpleNamespace,
    anna: cache.Avatar,
    request_of: Callable[..., FrameRequest],
    precision: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened = torch_device.TorchDevice("cuda", options=device.ModelOptions(precision))
    info = opened.load(assets.model)
    opened.serve({"anna": anna})
    measured = calibration.measure(opened, info.variant, anna.info, 4)
    requests = [request_of(w, source_frame=w.frame_index) for w in _windows(8)]
    alone = [opened.render(requests[:4]).frames, opened.render(requests[4:]).frames]

    first = opened.launch(requests[:4])
    first.wait_forward()
    second = opened.launch(requests[4:])
    both = [first.finish().frames, second.finish().frames]

    assert [size for size, _ in measured.curve.frame_batch_ms] == [1, 2, 4]
    assert "batch not captured" not in caplog.text
    assert [[f.image for f in part] for part in both] == [[f.image for f in part] for part in alone]
    opened.release()
    assert [f.image for f in opened.render(requests[:4]).frames]
    opened.close()


@pytest.mark.gpu
def test_enabled_gradients_take_the_memory_that_published_servers_need(
    assets: SimpleNamespace,
) -> None:
    opened = torch_device.TorchDevice("cuda")
    opened.load(assets.model)
    kept, plain = (opened.activations_mib(2, autograd=on) for on in (True, False))

    assert kept is not None
    assert plain is not None
    assert kept > 2 * plain > 0
    opened.close()


def test_the_cpu_reports_no_allocator(assets: SimpleNamespace) -> None:
    opened = torch_device.TorchDevice("cpu")
    assert opened.activations_mib(1, autograd=True) is None
    assert opened.peak_tflops() is None


async def test_cuda_without_a_gpu_is_an_error(assets: SimpleNamespace) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    engine = Engine(open_device("cuda"), assets.model, assets.avatars, 4)

    with pytest.raises(errors.EngineError, match="this process sees no CUDA device"):
        await engine.start()
    await engine.stop()


def _image(frame: Frame) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(frame.image, np.uint8), cv2.IMREAD_COLOR), int)


@pytest.mark.slow
async def test_the_cpu_splits_batches_and_not_their_steps(
    assets: SimpleNamespace, request_of: Callable[..., FrameRequest]
) -> None:
    alone = await _frames("cpu", assets, request_of)
    cut = await _frames("cpu", assets, request_of, threads=3)

    for a, b in zip(alone, cut, strict=True):
        assert np.abs(_image(a) - _image(b)).mean() < 0.05  # of 255
