"""The encoder of Whisper and its log-mel front end; returns every state (docs/musetalk.md).

Implemented here for the same reasons as `layers`; the states are those of the transformers
library, the last one after the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE: Final = 16_000
_FFT: Final = 400
_HOP: Final = 160
_SAMPLES_PER_STEP: Final = 2 * _HOP  # the second convolution halves the mel frames


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    """The fields of `whisper/config.json` that shape the encoder."""

    d_model: int = 384
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    max_source_positions: int = 1500
    num_mel_bins: int = 80

    @property
    def context_samples(self) -> int:
        """16 kHz samples of one context: 30 s in the published model."""
        return self.max_source_positions * _SAMPLES_PER_STEP

    @property
    def states(self) -> int:
        """Hidden states of one step: the embedding and each layer."""
        return self.encoder_layers + 1


class Encoder(nn.Module):
    """`(b, bins, 2 n)` log-mel to `(b, n, states, width)`, n up to the model's positions."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, mel: Tensor) -> Tensor:
        x = functional.gelu(self.conv1(mel))
        x = functional.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        states[-1] = self.layer_norm(states[-1])
        return torch.stack(states, dim=2)


class _Layer(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = _Attention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class LogMel(nn.Module):
    """`(b, samples)` at 16 kHz in [-1, 1] to `(b, bins, samples / 160)`, as in Whisper's training.

    Values are clipped at 8 below the maximum of the clip, so a feature depends on the whole clip.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)
        filters = torch.from_numpy(_slaney_filters(bins))
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(samples, _FFT, _HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        log = (self.filters @ power).clamp(min=1e-10).log10()
        floor = log.amax(dim=(1, 2), keepdim=True) - 8
        return (torch.maximum(log, floor) + 4) / 4


def positional_encoding(tokens: int, width: int) -> Tensor:
    """Return `(1, tokens, width) float32`: sines in even columns, cosines in odd ones."""
    position = torch.arange(tokens, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-np.log(10_000.0) / width))
    encoding = torch.zeros(tokens, width)
    encoding[:, 0::2] = torch.sin(position * rate)
    encoding[:, 1::2] = torch.cos(position * rate)
    return encoding[None]


def _slaney_filters(bins: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return `(bins, 201)` triangles of equal area on Slaney's mel scale, 0 to 8 kHz."""
    step, corner, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    top = corner / step + np.log(SAMPLE_RATE / 2 / corner) / log_step
    mel = np.linspace(0, top, bins + 2)
    knee = corner / step
    edges = np.where(mel < knee, mel * step, corner * np.exp(log_step * (mel - knee)))
    bands = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    slopes = edges[:, None] - bands[None, :]
    width = np.diff(edges)[:, None]
    rising, falling = -slopes[:-2] / width[:-1], slopes[2:] / width[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * (2 / (edges[2:] - edges[:-2]))[:, None], np.float32)
