"""Captured graphs over static tensors give the same faces as launching every kernel."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch

from avatar_runtime.engine.networks import vae
from avatar_runtime.engine.rendering import cpu_parallel, forward
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_runtime.engine.networks.musetalk import MuseTalk


class StandInModel:
    """A model of two lines, for what does not depend on the networks."""

    config = random_model.PRESETS["tiny"]
    latent_size, device, dtype = 4, torch.device("cpu"), torch.float32

    def predict(self, latents: Tensor, tokens: Tensor) -> Tensor:
        return latents[:, :4] + tokens.mean((1, 2))[:, None, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        return vae.to_bytes(latents[:, :3])


@pytest.fixture
def stand_in_model() -> MuseTalk:
    stand_in: Any = StandInModel()
    return stand_in  # type: ignore[no-any-return]


def _rows(model: MuseTalk, frames: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    side, width = model.latent_size, model.config.unet.cross_attention_dim
    latents = torch.randn(frames, 8, side, side, generator=generator)
    tokens = torch.randn(frames, model.config.tokens, width, generator=generator)
    return list(latents), list(tokens)


def _plain(model: MuseTalk) -> forward.EagerForward:
    return forward.EagerForward(model, cpu_parallel.CpuShards(ThreadPoolExecutor(1)))


def _untimed(stage: str) -> None:
    pass


@pytest.mark.slow
@torch.inference_mode()
def test_every_batch_of_a_bucket_gets_the_faces_of_the_eager_pass(
    tiny: MuseTalk, capturer: Any
) -> None:
    forward_pass, plain = forward.BucketForward(tiny, capturer), _plain(tiny)

    for seed, frames in enumerate((3, 4)):  # the bucket of 4 as it is, then captured
        rows = _rows(tiny, frames, seed)
        faces = forward_pass.run(*rows, _untimed).clone()
        expected = plain.run(*rows, _untimed)
        assert faces.shape == expected.shape == (frames, 128, 128, 3)
        # A padded batch may be summed in another order: one level of rounding.
        assert (faces.int() - expected.int()).abs().max() <= 1
    assert [made.replays for made in capturer.made] == [1, 1]  # UNet and decoder


@torch.inference_mode()
def test_rows_past_the_batch_are_discarded(stand_in_model: MuseTalk, capturer: Any) -> None:
    forward_pass, plain = forward.BucketForward(stand_in_model, capturer), _plain(stand_in_model)

    for seed, frames in enumerate((3, 4, 3, 1, 2, 3)):
        rows = _rows(stand_in_model, frames, seed)
        assert torch.equal(forward_pass.run(*rows, _untimed), plain.run(*rows, _untimed))
    assert [made.replays for made in capturer.made] == [3, 3]  # of the bucket of 4


@torch.inference_mode()
def test_stages_end_in_the_order_of_the_pipeline(stand_in_model: MuseTalk, capturer: Any) -> None:
    forward_pass = forward.BucketForward(stand_in_model, capturer)
    ended: list[str] = []
    for _ in range(2):
        forward_pass.run(*_rows(stand_in_model, 1, 0), ended.append)

    assert ended == ["encode_audio", "unet", "vae"] * 2


@torch.inference_mode()
def test_stages_of_the_eager_pass_end_in_the_same_order(stand_in_model: MuseTalk) -> None:
    ended: list[str] = []
    _plain(stand_in_model).run(*_rows(stand_in_model, 2, 0), ended.append)

    assert ended == ["encode_audio", "unet", "vae"]


@torch.inference_mode()
def test_a_bucket_that_cannot_be_captured_runs_eagerly(
    stand_in_model: MuseTalk, capturer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    capturer.fault = RuntimeError("operation not permitted when stream is capturing")
    forward_pass, plain = forward.BucketForward(stand_in_model, capturer), _plain(stand_in_model)
    rows = _rows(stand_in_model, 1, 5)
    with caplog.at_level(logging.WARNING):
        drawn = [forward_pass.run(*rows, _untimed).clone() for _ in range(3)]

    assert all(torch.equal(faces, plain.run(*rows, _untimed)) for faces in drawn)
    assert forward_pass.not_captured == {
        1: "RuntimeError: operation not permitted when stream is capturing"
    }
    # Logged once: later batches do not try again.
    assert [r.getMessage()[:28] for r in caplog.records] == ["batch not captured bucket=1 "]


@torch.inference_mode()
def test_after_a_release_a_bucket_is_captured_again_when_memory_has_settled(
    stand_in_model: MuseTalk, capturer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "CAPTURE_AFTER_RELEASE", 3)
    forward_pass = forward.BucketForward(stand_in_model, capturer)
    rows = _rows(stand_in_model, 1, 0)
    forward_pass.run(*rows, _untimed)
    forward_pass.run(*rows, _untimed)
    assert len(capturer.made) == 2
    forward_pass.release()

    for _ in range(2):
        forward_pass.run(*rows, _untimed)
    assert len(capturer.made) == 2
    forward_pass.run(*rows, _untimed)
    assert len(capturer.made) == 4
