"""Rewrites a loaded model into one that computes the same with less work.

Only for serving: the folded networks no longer have the published parameter names, so weights
cannot be loaded or saved. Tests compare the result with the plain networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from avatar_runtime.engine.networks.layers import Resnet, Upsample

if TYPE_CHECKING:
    from avatar_runtime.engine.networks.musetalk import MuseTalk


def fold(model: MuseTalk, *, upsampling: bool) -> None:
    """Fold a float32 model in place: the time embedding, and with `upsampling` the upsampling.

    The layers that only preparation uses are removed, and those of the VAE decoder if another
    decoder replaces it.

    One transposed convolution instead of repetition and convolution is twice as fast on the CPU;
    it has not been measured on the GPU.
    """
    with torch.no_grad():
        _remove_unused(model)
        _fold_time(model)
        if upsampling:
            for network in (model.unet, model.vae):
                for parent in list(network.modules()):
                    _fold_upsampling(parent)


class FoldedUpsample(nn.Module):
    """Doubles both sides and convolves in one step, without the repeated image in between.

    After repetition a row of three taps meets two source rows: [w0, w1 + w2] for even and
    [w0 + w1, w2] for odd output rows. That is a transposed convolution of stride 2 with the
    four taps [w2, w1 + w2, w0 + w1, w0], and the same across.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        taps = _four_taps(_four_taps(plain.weight, 2), 3).transpose(0, 1)
        self.weight = nn.Parameter(taps.contiguous(), requires_grad=False)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


def _four_taps(weight: Tensor, side: int) -> Tensor:
    w0, w1, w2 = weight.unbind(side)
    return torch.stack([w2, w1 + w2, w0 + w1, w0], side)


def _fold_upsampling(parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        if isinstance(child, Upsample):
            parent.register_module(name, FoldedUpsample(child.conv))


def _remove_unused(model: MuseTalk) -> None:
    del model.vae.encoder, model.vae.quant_conv
    if model.taesd is not None:
        del model.vae.decoder, model.vae.post_quant_conv


def _fold_time(model: MuseTalk) -> None:
    """Add the constant time embedding of each resnet to its first bias; remove its 28 M weights."""
    embedding = model.unet.time_zero()
    for module in model.unet.modules():
        if isinstance(module, Resnet):
            bias = module.conv1.bias
            assert bias is not None, "every convolution here has a bias"
            bias += module.time_emb_proj(embedding)[0]
            del module.time_emb_proj
    del model.unet.time_embedding
