"""The UNet that turns a masked face, a reference face and audio into a latent, in one step.

It has the topology of Stable Diffusion 1.4 (docs/musetalk.md), but no noise and no schedule: the
time is always 0, so its embedding is the same vector for every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from avatar_runtime.engine.networks.layers import Downsample, Resnet, Transformer, Upsample


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The fields of `musetalk.json` that vary; all others must have their published values."""

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 384
    attention_head_dim: int = 8
    """Number of heads: the published file uses the name in its old meaning."""
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    in_channels: int = 8
    out_channels: int = 4
    flip_sin_to_cos: bool = True


class UNet(nn.Module):
    """`(b, 8, s, s)` latents and `(b, 50, context)` tokens to `(b, 4, s, s)` latents."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        groups, eps = config.norm_num_groups, config.norm_eps
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0], 4 * widths[0])
        self.down_blocks = nn.ModuleList(_Down(config, level) for level in range(len(widths)))
        self.mid_block = _Middle(config)
        self.up_blocks = nn.ModuleList(_Up(config, level) for level in range(len(widths)))
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        embedding = self.time_zero() if hasattr(self, "time_embedding") else None
        x = self.conv_in(latents)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, embedding, tokens, skips)
        x = self.mid_block(x, embedding, tokens)
        for up in self.up_blocks:
            x = up(x, embedding, tokens, skips)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out

    def time_zero(self) -> Tensor:
        """Return the activated embedding of time 0, whose sines are 0 and cosines 1."""
        half = self.config.block_out_channels[0] // 2
        like = self.conv_in.weight
        cosines, sines = like.new_ones(1, half), like.new_zeros(1, half)
        parts = (cosines, sines) if self.config.flip_sin_to_cos else (sines, cosines)
        embedding: Tensor = self.time_embedding(torch.cat(parts, dim=1))
        return functional.silu(embedding)


class _TimeEmbedding(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(functional.silu(self.linear_1(x)))
        return out


def _resnet(config: UNetConfig, inputs: int, outputs: int) -> Resnet:
    embedding = 4 * config.block_out_channels[0]
    return Resnet(inputs, outputs, config.norm_num_groups, config.norm_eps, embedding)


def _transformer(config: UNetConfig, width: int) -> Transformer:
    heads, context = config.attention_head_dim, config.cross_attention_dim
    return Transformer(width, heads, context, config.norm_num_groups)


class _Down(nn.Module):
    """One level down; the last one has no attention and keeps its size."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        outputs, is_last = widths[level], level == len(widths) - 1
        inputs = [widths[max(0, level - 1)]] + [outputs] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(_resnet(config, i, outputs) for i in inputs)
        if not is_last:
            self.attentions = nn.ModuleList(_transformer(config, outputs) for _ in inputs)
            self.downsamplers = nn.ModuleList([Downsample(outputs, padding=1)])

    def forward(
        self, x: Tensor, embedding: Tensor | None, tokens: Tensor, skips: list[Tensor]
    ) -> Tensor:
        """Append every result to `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, embedding)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, tokens)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class _Middle(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.resnets = nn.ModuleList(_resnet(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_transformer(config, width)])

    def forward(self, x: Tensor, embedding: Tensor | None, tokens: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, embedding), tokens)
        out: Tensor = self.resnets[1](x, embedding)
        return out


class _Up(nn.Module):
    """One level up, `level` counted from the bottom; the first one has no attention."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        outputs, below = widths[level], widths[max(0, level - 1)]
        beyond = widths[min(level + 1, len(widths) - 1)]
        resnets = config.layers_per_block + 1
        own = [below] + [outputs] * (resnets - 1)
        skipped = [outputs] * (resnets - 1) + [beyond]
        inputs = [a + b for a, b in zip(own, skipped, strict=True)]
        self.resnets = nn.ModuleList(_resnet(config, i, outputs) for i in inputs)
        if level > 0:
            self.attentions = nn.ModuleList(_transformer(config, outputs) for _ in inputs)
        if level < len(widths) - 1:
            self.upsamplers = nn.ModuleList([Upsample(outputs)])

    def forward(
        self, x: Tensor, embedding: Tensor | None, tokens: Tensor, skips: list[Tensor]
    ) -> Tensor:
        """Pop the results of the downward path from the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), embedding)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, tokens)
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0](x)
        return x
