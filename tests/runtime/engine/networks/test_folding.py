"""The parity gate of what serving folds: every result beside that of the plain networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from avatar_runtime.engine.networks import folding, layers, musetalk

if TYPE_CHECKING:
    from types import SimpleNamespace

    from torch import Tensor


@pytest.fixture(scope="module")
def folded(assets: SimpleNamespace) -> musetalk.MuseTalk:
    made = musetalk.load(assets.model)
    folding.fold(made, upsampling=True)
    return made.to(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def inputs(tiny: musetalk.MuseTalk) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, width = tiny.latent_size, tiny.config.unet.cross_attention_dim
    latents = torch.randn(3, 8, side, side, generator=generator)
    return latents, torch.randn(3, tiny.config.tokens, width, generator=generator)


def test_both_stages_stay_within_float32_of_the_plain_ones(
    tiny: musetalk.MuseTalk, folded: musetalk.MuseTalk, inputs: tuple[Tensor, Tensor]
) -> None:
    with torch.inference_mode():
        plain = tiny.predict(*inputs)
        unet_error = float((folded.predict(*inputs) - plain).abs().max())
        pictures = tiny.vae.decode(plain)
        vae_error = float((folded.vae.decode(plain) - pictures).abs().max())

    assert unet_error < 1e-5
    assert vae_error < 1e-5


def test_images_of_8_bits_differ_by_one_level_at_most(
    tiny: musetalk.MuseTalk, folded: musetalk.MuseTalk, inputs: tuple[Tensor, Tensor]
) -> None:
    with torch.inference_mode():
        plain, ours = (m.decode(m.predict(*inputs)).numpy().astype(int) for m in (tiny, folded))

    difference = np.abs(ours - plain)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3  # over 78 dB


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8)], ids=str)
def test_folded_upsampling_is_exact_up_to_the_borders(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = layers.Upsample(5).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    with torch.no_grad():
        ours = folding.FoldedUpsample(plain.conv)(x)
        torch.testing.assert_close(ours, plain(x), rtol=0, atol=1e-12)


def test_the_time_embedding_and_its_weights_are_removed(
    tiny: musetalk.MuseTalk, folded: musetalk.MuseTalk
) -> None:
    assert any("time_emb" in name for name in tiny.unet.state_dict())
    assert not any("time_emb" in name for name in folded.unet.state_dict())


def test_a_resnet_computes_the_same_while_it_trains_and_keeps_its_input() -> None:
    torch.manual_seed(0)
    resnet = layers.Resnet(8, 8, 2, 1e-5)
    x = torch.randn(1, 8, 4, 4)
    kept = x.clone()
    trained = resnet(x)
    with torch.inference_mode():
        served = resnet(x)

    assert trained.requires_grad
    assert not served.requires_grad
    assert torch.equal(trained, served)
    assert torch.equal(x, kept)
