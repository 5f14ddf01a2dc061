"""The autoencoder between images and latents (docs/musetalk.md).

Serving uses the decoder, which is 78 % of the work of a frame; preparation uses the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from avatar_runtime.engine.networks.layers import Downsample, PixelAttention, Resnet, Upsample

_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """The fields of `sd-vae/config.json` that vary."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 256
    """Side of the face crop, pixels."""
    scaling_factor: float = 0.18215
    """Absent from the published file."""

    @property
    def latent_size(self) -> int:
        """Side of the latent: every level but the last halves it."""
        return int(self.sample_size >> len(self.block_out_channels) - 1)


class VAE(nn.Module):
    """Encodes to and decodes from latents that are multiplied by the scaling factor."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Return the mode of the latents: `(b, 3, c, c)` RGB in [-1, 1] to `(b, 4, s, s)`."""
        moments: Tensor = self.quant_conv(self.encoder(images))
        return moments.chunk(2, dim=1)[0] * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return RGB images about [-1, 1], not clamped: `(b, 4, s, s)` to `(b, 3, c, c)`."""
        out: Tensor = self.decoder(self.post_quant_conv(latents / self.config.scaling_factor))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(_Down(config, level) for level in range(len(widths)))
        self.mid_block = _Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList(_Up(config, level) for level in range(len(widths)))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(width, width, groups, _EPS) for _ in range(2))
        self.attentions = nn.ModuleList([PixelAttention(width, groups, _EPS)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return out


class _Down(nn.Module):
    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        outputs = widths[level]
        inputs = [widths[max(0, level - 1)]] + [outputs] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(Resnet(i, outputs, groups, _EPS) for i in inputs)
        if level < len(widths) - 1:
            self.downsamplers = nn.ModuleList([Downsample(outputs, padding=0)])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class _Up(nn.Module):
    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        outputs = widths[level]
        inputs = [widths[max(0, level - 1)]] + [outputs] * config.layers_per_block
        self.resnets = nn.ModuleList(Resnet(i, outputs, groups, _EPS) for i in inputs)
        if level < len(widths) - 1:
            self.upsamplers = nn.ModuleList([Upsample(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


def to_bytes(images: Tensor) -> Tensor:
    """Return `(b, c, c, 3) uint8` BGR of decoded RGB: clamped, then rounded half to even."""
    scaled = (images.float() / 2 + 0.5).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).flip(1).permute(0, 2, 3, 1).contiguous()
