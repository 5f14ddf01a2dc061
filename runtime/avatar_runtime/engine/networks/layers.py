"""The blocks that the UNet and the VAE share, with the parameter names of the published weights.

Plain modules instead of diffusers, with which the networks were trained: importing diffusers
costs a pod 6 to 10 s of its start and 230 MiB, and the engine must be able to fold the layers.
Tests compare every network with that of diffusers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Resnet(nn.Module):
    """Two normalised 3x3 convolutions with a shortcut; `embedding` is the time embedding width."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float, embedding: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if embedding is not None:
            self.time_emb_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """`embedding` is `(1, embedding)` after its activation, or `None` if it is folded."""
        h = self.conv1(_silu(self.norm1(x)))
        if embedding is not None:
            h = h + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(_silu(self.norm2(h)))
        shortcut: Tensor = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        out: Tensor = shortcut + h if torch.is_grad_enabled() else h.add_(shortcut)
        return out


def _silu(x: Tensor) -> Tensor:
    """Return the activation, in place unless training needs the input."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


class Attention(nn.Module):
    """Multi-head attention of `(b, n, width)` on itself or on a context."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out


class PixelAttention(nn.Module):
    """The attention of the VAE over all pixels: one head, with norm, biases and shortcut."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=eps)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            self.to_q(h)[:, None], self.to_k(h)[:, None], self.to_v(h)[:, None]
        )
        out: Tensor = x + self.to_out[0](mixed[:, 0]).transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class Downsample(nn.Module):
    """Halves both sides; with padding 0, a row and a column of zeros are appended first."""

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.padding == (0, 0):
            x = functional.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Doubles both sides by repetition, then convolves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Transformer(nn.Module):
    """Self-attention, cross-attention to the audio and a gated feed-forward over the pixels."""

    def __init__(self, width: int, heads: int, context: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([_Block(width, heads, context)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        h = self.transformer_blocks[0](h, context)
        out: Tensor = x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context)
        self.norm3 = nn.LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Positions 0 and 2 have weights; position 1 is the dropout of training.
        self.net = nn.ModuleList(
            [_GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


class _GEGLU(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return torch.mul(value, functional.gelu(gate))
