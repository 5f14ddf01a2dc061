"""Stage 2: trains the autoencoder on the drawn faces, with a larger weight on the mouths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from avatar_training.crops import Images
    from avatar_training.stages import Stage

_MOUTH_WEIGHT: Final = 5.0
_PATCH: Final = 64
"""Side of the patches in the first part: a quarter of the work for the convolutions."""
_WHOLE_FROM: Final = 0.7
"""Share of the budget after which whole crops are used, since norms and attention are global."""
_DECODER_FROM: Final = 0.85
"""Share after which the encoder is frozen and the decoder is trained with noisy latents."""
_KL_WEIGHT: Final = 1e-5
_LATENT_NOISE: Final = 0.08  # standard deviations of the latents


def mouth_weights(size: int) -> torch.Tensor:
    """Return `(1, 1, size, size)`: 1, increasing smoothly to 5 around the mouth of a face box."""
    at = (torch.arange(size) + 0.5) / size
    vertical = torch.exp(-0.5 * ((at - 0.75) / 0.09) ** 4)
    horizontal = torch.exp(-0.5 * ((at - 0.5) / 0.2) ** 4)
    return 1 + (_MOUTH_WEIGHT - 1) * (vertical[:, None] * horizontal[None])[None, None]


def to_input(images: Images) -> torch.Tensor:
    """Return the VAE input of BGR bytes `(n, h, w, 3)`: RGB `(n, 3, h, w)` in [-1, 1]."""
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(rgb).float() / 127.5 - 1


def mouth_psnr(made: torch.Tensor, true: torch.Tensor) -> float:
    """Return the PSNR of the mouth's rectangle in dB; inputs are in [-1, 1]."""
    size = true.shape[-1]
    area = (..., slice(round(size * 0.64), round(size * 0.9)), slice(size // 4, size * 3 // 4))
    error = ((made.clamp(-1, 1) - true)[area] / 2).square().mean()
    return float(-10 * torch.log10(error + 1e-10))


def picture_loss(made: torch.Tensor, true: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return a mouth-weighted error of pixels and of their differences (edges)."""
    error = made - true
    pixels = (error.abs() + 2 * error.square()) * weights
    across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weights[..., :, 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weights[..., 1:, :]
    return (pixels.mean() + 0.5 * (across.mean() + down.mean())) / weights.mean()


def _patches(
    images: torch.Tensor, weights: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    size = images.shape[-1]
    span = size - _PATCH
    taken, weighed = [], []
    for image in images:
        if rng.random() < 0.6:
            x = int(np.clip(rng.normal(span / 2, span / 8), 0, span))
            y = int(np.clip(rng.normal(span * 0.9, span / 8), 0, span))
        else:
            x, y = (int(v) for v in rng.integers(0, span + 1, 2))
        taken.append(image[:, y : y + _PATCH, x : x + _PATCH])
        weighed.append(weights[0, :, y : y + _PATCH, x : x + _PATCH])
    return torch.stack(taken), torch.stack(weighed)


def train(vae: AutoencoderKL, stage: Stage, images: Images, batch: int) -> None:
    """Train the autoencoder on `(n, size, size, 3)` BGR crops."""
    weights = mouth_weights(images.shape[1])
    vae.to(memory_format=torch.channels_last).train()
    for step in stage:
        rng = stage.rng(step)
        whole = stage.progress > _WHOLE_FROM or images.shape[1] <= _PATCH
        rows = rng.choice(len(images), max(2, batch // 3) if whole else batch)
        true = to_input(images[rows])
        if whole:
            weighed = weights
        else:
            true, weighed = _patches(true, weights, rng)
        true = true.contiguous(memory_format=torch.channels_last)
        if stage.progress > _DECODER_FROM:
            with torch.no_grad():
                mode = vae.encode(true).latent_dist.mode()
            latents = mode + _LATENT_NOISE * mode.std() * torch.randn_like(mode)
            divergence = torch.zeros(())
        else:
            posterior = vae.encode(true).latent_dist
            latents = posterior.sample()
            divergence = posterior.kl().mean() / latents[0].numel()
        made = vae.decode(latents).sample
        loss = picture_loss(made, true, weighed) + _KL_WEIGHT * divergence
        shown = {"mouth_psnr": mouth_psnr(made.detach(), true)} if whole else {}
        stage.learn(loss, **shown)
    vae.eval()


def evaluate(vae: AutoencoderKL, images: Images) -> dict[str, float]:
    """Return the PSNR of whole crops and of their mouths, in dB, through the latent's mode."""
    psnr, mouth = [], []
    with torch.inference_mode():
        for start in range(0, len(images), 16):
            true = to_input(images[start : start + 16])
            made = vae.decode(vae.encode(true).latent_dist.mode()).sample.clamp(-1, 1)
            for one, other in zip(made, true, strict=True):
                error = functional.mse_loss(one / 2, other / 2)
                psnr.append(float(-10 * torch.log10(error + 1e-10)))
                mouth.append(mouth_psnr(one, other))
    return {"psnr_db": float(np.mean(psnr)), "mouth_psnr_db": float(np.mean(mouth))}


def latent_deviation(vae: AutoencoderKL, images: Images) -> float:
    """Return the standard deviation of the latents' mode: its inverse is the scaling factor."""
    with torch.inference_mode():
        return float(vae.encode(to_input(images)).latent_dist.mode().std())
