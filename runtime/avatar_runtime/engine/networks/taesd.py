"""The small decoder that can replace that of the VAE: TAESD, 1.2 M parameters.

It was distilled from the VAE of Stable Diffusion and decodes the same latents, but without
dividing by the scaling factor (docs/musetalk.md). It is opt-in, since it changes the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """The fields of `taesd/config.json` that vary."""

    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 4

    @property
    def upscale(self) -> int:
        """Side of the image, in sides of the latent."""
        return int(1 << len(self.num_decoder_blocks) - 1)


class TinyDecoder(nn.Module):
    """`(b, 4, s, s)` scaled latents to `(b, 3, c, c)` RGB about [-1, 1]."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = _Layers(config)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, not clamped; latents are limited to [-3, 3] with tanh, as in training."""
        out: Tensor = self.decoder(torch.tanh(latents / 3) * 3)
        return out * 2 - 1


class _Layers(nn.Module):
    """One flat list, since the published parameter names are its positions."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        widths = config.decoder_block_out_channels
        layers: list[nn.Module] = [
            nn.Conv2d(config.latent_channels, widths[0], 3, padding=1), nn.ReLU(),
        ]  # fmt: skip
        for level, (width, blocks) in enumerate(
            zip(widths, config.num_decoder_blocks, strict=True)
        ):
            layers += [_Block(width) for _ in range(blocks)]
            if level < len(widths) - 1:
                layers += [
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                ]
            else:
                layers.append(nn.Conv2d(width, 3, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Positions 0, 2 and 4 have weights.
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x)
