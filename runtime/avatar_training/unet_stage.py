"""Stage 3: trains the UNet to draw the mouth of the audio into a resting face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from tqdm import tqdm

from avatar_training.audio_stage import LOOK_AHEAD_STEPS, LogMel
from avatar_training.augmentation import augment, retune
from avatar_training.networks import STATES, WINDOW_STEPS
from avatar_training.speech import STEP, Utterance
from avatar_training.vae_stage import mouth_psnr, mouth_weights, picture_loss, to_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import WhisperModel

    from avatar_training.crops import Crops, Images
    from avatar_training.stages import Stage
    from avatar_training.visemes import Floats

_STEPS_BEFORE: Final = 4
_LARGEST_GROUP: Final = 4  # at least as many frames as the runtime encodes together
_PIXEL_SHARE: Final = 6
"""One of this many samples of a batch is decoded for the pixel loss."""
_PIXEL_WEIGHT: Final = 1.5
_CONTEXTS_PER_MOMENT: Final = 3
"""Number of contexts per moment, with different starts, rooms and vocal tracts."""


@dataclass(frozen=True, slots=True)
class Context:
    """The audio that the runtime encodes for one frame."""

    samples: Floats
    first_step: int
    """Step of the context at which the window of the frame starts; may be negative."""
    steps: int
    """Number of real steps; the window is zero after them."""


def runtime_context(
    said: Utterance, frame: int, positions: int, rng: np.random.Generator
) -> Context:
    """Return a context as the runtime selects it, to the look-ahead of a group's last frame."""
    last = frame + int(rng.integers(_LARGEST_GROUP))
    end = 2 * (last + 1) + LOOK_AHEAD_STEPS
    length = positions
    if rng.random() < 0.3:  # a response that started a moment ago, or with this frame
        length = end - max(2 * frame - int(rng.integers(0, positions // 4)) * 2, 0)
    start = max(0, end - min(length, positions))
    steps = min(end, len(said.mouth)) - start
    sound = said.samples[start * STEP : end * STEP]
    return Context(sound, 2 * frame - _STEPS_BEFORE - start, steps)


def window_tokens(states: Sequence[torch.Tensor], first_step: int, steps: int) -> torch.Tensor:
    """Return `(50, width)`: ten steps of all states of one context, row-major."""
    stacked = torch.stack(list(states), dim=1)
    window = stacked.new_zeros(WINDOW_STEPS, STATES, stacked.shape[-1])
    begin, end = max(first_step, 0), min(first_step + WINDOW_STEPS, steps)
    if begin < end:
        window[begin - first_step : end - first_step] = stacked[begin:end]
    return window.flatten(0, 1)


def positional_encoding(tokens: int, width: int) -> torch.Tensor:
    """Return `(tokens, width)`: sine in even columns, cosine in odd ones, base 10000."""
    position = torch.arange(tokens)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-np.log(10000.0) / width))
    encoding = torch.zeros(tokens, width)
    encoding[:, 0::2] = torch.sin(position * rate)
    encoding[:, 1::2] = torch.cos(position * rate)
    return encoding


@dataclass(frozen=True, slots=True)
class Examples:
    """The encoded inputs and targets of the UNet."""

    tokens: torch.Tensor
    """`(hearings, n, 50, width) float16`, with positional encoding."""
    targets: torch.Tensor
    """`(n, 4, s, s)` scaled latents of the speaking faces."""
    sources: torch.Tensor
    """`(rests, 8, s, s)`: masked and whole resting face."""
    rest_of: torch.Tensor
    images: Images


def encode_examples(
    whisper: WhisperModel,
    vae: AutoencoderKL,
    speech: Sequence[Utterance],
    crops: Crops,
    seed: int,
) -> Examples:
    """Encode the audio and the images of all examples."""
    rng = np.random.default_rng([seed, 3])
    with torch.inference_mode():
        tokens = torch.stack(
            [
                _tokens(whisper, speech, crops, rng, hearing > 0)
                for hearing in range(_CONTEXTS_PER_MOMENT)
            ]
        )
        return Examples(
            tokens.clone(),
            _latents(vae, crops.speaking),
            _sources(vae, crops.resting),
            torch.from_numpy(crops.rest_of),
            crops.speaking,
        )


def _tokens(
    whisper: WhisperModel,
    speech: Sequence[Utterance],
    crops: Crops,
    rng: np.random.Generator,
    changed: bool,
) -> torch.Tensor:
    positions, width = whisper.config.max_source_positions, whisper.config.d_model
    encoding = positional_encoding(WINDOW_STEPS * STATES, width)
    mel = LogMel()
    count = len(crops.frame)
    made = torch.zeros(count, WINDOW_STEPS * STATES, width, dtype=torch.float16)
    for start in tqdm(range(0, count, 32), desc="hear", mininterval=5):
        rows = range(start, min(start + 32, count))
        contexts = [
            runtime_context(speech[crops.utterance[r]], int(crops.frame[r]), positions, rng)
            for r in rows
        ]
        samples = np.zeros((len(contexts), positions * STEP), np.float32)
        heard = np.zeros((len(contexts), positions), np.float32)
        for row, context in enumerate(contexts):
            samples[row, : len(context.samples)] = context.samples
            heard[row, : len(context.samples) // STEP] = 1
        if changed:
            seen = retune(mel(augment(samples, heard, rng)), torch.from_numpy(heard), rng)
        else:
            seen = mel(torch.from_numpy(samples))
        states = whisper.encoder(seen, output_hidden_states=True).hidden_states
        for row, (place, context) in enumerate(zip(rows, contexts, strict=True)):
            tokens = window_tokens([s[row] for s in states], context.first_step, context.steps)
            made[place] = (tokens + encoding).half()
    return made


def _latents(vae: AutoencoderKL, images: Images) -> torch.Tensor:
    parts = []
    for start in tqdm(range(0, len(images), 32), desc="see", mininterval=5):
        seen = to_input(images[start : start + 32])
        parts.append(vae.encode(seen).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(parts)


def _sources(vae: AutoencoderKL, resting: Images) -> torch.Tensor:
    masked = resting.copy()
    masked[:, resting.shape[1] // 2 :] = 0
    return torch.cat([_latents(vae, masked), _latents(vae, resting)], dim=1)


def train(
    unet: UNet2DConditionModel, vae: AutoencoderKL, stage: Stage, examples: Examples, batch: int
) -> None:
    """Train the UNet; the autoencoder is frozen."""
    vae.eval().requires_grad_(False)
    unet.train()
    size = examples.images.shape[1]
    pixel_weights = mouth_weights(size)
    latent_weights = torch.nn.functional.avg_pool2d(pixel_weights, 8)
    sources, targets = examples.sources.clone(), examples.targets.clone()
    decoded = max(1, batch // _PIXEL_SHARE)
    for step in stage:
        rng = stage.rng(step)
        rows = torch.from_numpy(rng.choice(len(targets), batch))
        hearing = torch.from_numpy(rng.integers(len(examples.tokens), size=batch))
        tokens = examples.tokens[hearing, rows].float()
        made = unet(sources[examples.rest_of[rows]], 0, tokens).sample
        latent_error = ((made - targets[rows]) ** 2 * latent_weights).mean()
        pictures = vae.decode(made[:decoded] / vae.config.scaling_factor).sample
        true = to_input(examples.images[rows[:decoded].numpy()])
        pixel_error = picture_loss(pictures, true, pixel_weights)
        stage.learn(
            latent_error + _PIXEL_WEIGHT * pixel_error,
            latent=float(latent_error.detach()),
            mouth_psnr=mouth_psnr(pictures.detach(), true),
        )
    unet.eval()
