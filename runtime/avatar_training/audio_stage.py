"""Stage 1: trains the audio encoder to predict the mouth from short streaming contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from avatar_training.augmentation import augment, breathe, retune
from avatar_training.speech import RATE, STEP, Utterance
from avatar_training.visemes import MOUTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import WhisperModel

    from avatar_training.stages import Stage

_COLUMN_WEIGHTS: Final = (4.0, 1.5, 1.5, 1.0, 1.0)
"""Loss weight of each mouth parameter; viewers notice the opening first."""
LOOK_AHEAD_STEPS: Final = 4
"""Audio after a frame that its window may use, in steps: 80 ms."""
_N_FFT: Final = 400
_HOP: Final = 160


class LogMel(torch.nn.Module):
    """Whisper's log-mel spectrogram: `(b, samples)` audio to `(b, 80, samples / 160)`."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank(
            num_frequency_bins=_N_FFT // 2 + 1,
            num_mel_filters=80,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", torch.tensor(filters.T, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(_N_FFT))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(samples, _N_FFT, _HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2
        log = torch.clamp(self.filters @ power, min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0


class MouthHeads(torch.nn.Module):
    """Linear predictions of the mouth from the encoder's states; not saved after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = torch.nn.Linear(width, len(MOUTH))
        self.inner = torch.nn.ModuleList([torch.nn.Linear(width, len(MOUTH)) for _ in range(2)])

    def forward(self, states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        inner = [head(state) for head, state in zip(self.inner, states[-3:-1], strict=True)]
        return [self.last(states[-1]), *inner]


@dataclass(frozen=True, slots=True)
class Contexts:
    """A batch of streaming contexts, zero-padded at the end as the runtime pads them."""

    samples: torch.Tensor
    """`(b, context_steps · 320) float32`."""
    mouth: torch.Tensor
    """`(b, context_steps, 5) float32`."""
    weight: torch.Tensor
    """`(b, context_steps) float32`: 0 in the padding, small in the look-ahead."""


def random_contexts(
    speech: Sequence[Utterance], count: int, steps: int, rng: np.random.Generator
) -> Contexts:
    """Draw random contexts: many full ones, and some from the start of a response."""
    samples = np.zeros((count, steps * STEP), np.float32)
    mouth = np.zeros((count, steps, len(MOUTH)), np.float32)
    weight = np.zeros((count, steps), np.float32)
    for row in range(count):
        said = speech[int(rng.integers(len(speech)))]
        length = min(
            steps if rng.random() < 0.6 else int(rng.integers(3, steps // 2)) * 2, len(said.mouth)
        )
        start = int(rng.integers(0, len(said.mouth) - length + 1))
        samples[row, : length * STEP] = said.samples[start * STEP : (start + length) * STEP]
        mouth[row, :length] = said.mouth[start : start + length]
        weight[row, :length] = 1.0
        weight[row, max(length - LOOK_AHEAD_STEPS, 0) : length] = 0.3
    breathe(samples, mouth, weight, rng)
    return Contexts(
        augment(samples, weight, rng), torch.from_numpy(mouth), torch.from_numpy(weight)
    )


def mouth_loss(readings: Sequence[torch.Tensor], contexts: Contexts) -> torch.Tensor:
    """Return the weighted squared error of the mouth; the last state has the largest weight."""
    columns = torch.tensor(_COLUMN_WEIGHTS)
    losses = [
        (((reading - contexts.mouth) ** 2) @ columns * contexts.weight).sum()
        / contexts.weight.sum()
        for reading in readings
    ]
    return losses[0] + 0.2 * sum(losses[1:], torch.zeros(()))


def opening_correlation(reading: torch.Tensor, contexts: Contexts) -> float:
    """Return Pearson's correlation of the predicted opening over the steps with a weight."""
    counted = contexts.weight > 0.5
    pair = torch.stack([reading[..., 0][counted], contexts.mouth[..., 0][counted]])
    return float(torch.corrcoef(pair.detach())[0, 1])


def train(
    model: WhisperModel, heads: MouthHeads, stage: Stage, speech: Sequence[Utterance], batch: int
) -> None:
    """Train the audio encoder."""
    mel = LogMel()
    steps = model.config.max_source_positions
    model.train()
    for step in stage:
        contexts = random_contexts(speech, batch, steps, stage.rng(step))
        heard = retune(mel(contexts.samples), contexts.weight, stage.rng(step))
        states = model.encoder(heard, output_hidden_states=True).hidden_states
        readings = heads(states)
        stage.learn(
            mouth_loss(readings, contexts), r_open=opening_correlation(readings[0], contexts)
        )
    model.eval()
