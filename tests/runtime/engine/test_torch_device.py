"""The real devices: the CPU here, CUDA where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.audio import utterance
from avatar_runtime.engine import device, worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from avatar_runtime.batching.frames import Frame, FrameRequest


async def _frames(
    name: str,
    assets: SimpleNamespace,
    request_of: Callable[..., FrameRequest],
    threads: int = 1,
) -> list[Frame]:
    rng = np.random.default_rng(0)
    speech = utterance.Utterance(16_000, context_s=3)
    speech.append(rng.integers(-9000, 9000, 5 * 640, "<i2").tobytes())
    speech.finish()
    requests = [request_of(w, source_frame=w.frame_index) for w in speech.take()]
    engine = worker.Engine(
        device.open_device(name, threads=threads), assets.model, assets.avatars, 4
    )
    await engine.start()
    assert engine.calibration is not None
    assert all(ms > 0 for _, ms in engine.calibration.frame_batch_ms)
    assert 0 < engine.memory().used_bytes < engine.memory().total_bytes
    frames = [*await engine.run(requests[:2]), *await engine.run(requests[2:])]
    await engine.stop()
    return frames


@pytest.mark.slow
async def test_the_cpu_computes_pictures_of_the_avatar(
    assets: SimpleNamespace, request_of: Callable[..., FrameRequest]
) -> None:
    frames = await _frames("cpu", assets, request_of)

    shapes = [_picture(frame).shape for frame in frames]
    assert shapes == [(192, 192, 3)] * 5


@pytest.mark.gpu
async def test_cuda_draws_what_the_cpu_draws(
    assets: SimpleNamespace, request_of: Callable[..., FrameRequest]
) -> None:
    here = await _frames("cpu", assets, request_of)
    there = await _frames("cuda", assets, request_of)

    worst = max(
        float(np.abs(_picture(a) - _picture(b)).mean()) for a, b in zip(here, there, strict=True)
    )
    assert worst < 1.0  # of 255; float16 beside float32


async def test_cuda_without_a_card_is_told(assets: SimpleNamespace) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    engine = worker.Engine(device.open_device("cuda"), assets.model, assets.avatars, 4)

    with pytest.raises(errors.EngineError, match="this process sees no CUDA device"):
        await engine.start()
    await engine.stop()


def _picture(frame: Frame) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR), int)


@pytest.mark.slow
async def test_the_cpu_cuts_batches_and_not_their_steps(
    assets: SimpleNamespace, request_of: Callable[..., FrameRequest]
) -> None:
    alone = await _frames("cpu", assets, request_of)
    cut = await _frames("cpu", assets, request_of, threads=3)

    for a, b in zip(alone, cut, strict=True):
        assert np.abs(_picture(a) - _picture(b)).mean() < 0.05  # of 255
