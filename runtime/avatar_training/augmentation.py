"""Augments the training audio, so that the model does not depend on one voice, room or recorder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from avatar_training.speech import RATE, STEP

if TYPE_CHECKING:
    from avatar_training.visemes import Floats

_SWELL_S: Final = 0.5
_SWELL_DB: Final = 3.0
_BREATHS: Final = 0.12
"""Share of contexts with a breath in a pause."""
_CLOSED: Final = 0.03
_VOCAL_TRACT_DEVIATION: Final = 0.05
"""Standard deviation of the logarithm of the vocal tract length."""
_TEXTURE: Final = 0.04
"""Largest unevenness of the spectrogram, in units of four decades of power: 1.6 dB."""
_MUFFLED: Final = 0.15
_WIDEST_MUFFLE: Final = 12  # mel bands


def breathe(samples: Floats, mouth: Floats, weight: Floats, rng: np.random.Generator) -> None:
    """Add a breath (noise that fades in and out) in a pause of some contexts, in place."""
    for row in range(len(samples)):
        if rng.random() >= _BREATHS:
            continue
        closed = (mouth[row, :, 0] < _CLOSED) & (weight[row] > 0)
        places = np.flatnonzero(closed)
        if not len(places):
            continue
        middle, half = int(rng.choice(places)), int(rng.integers(3, 12))
        first, last = max(middle - half, 0), min(middle + half, len(closed))
        hull = np.hanning(2 * half * STEP)[: (last - first) * STEP]
        hull = hull * np.repeat(closed[first:last], STEP)
        noise = torch.from_numpy(rng.standard_normal((1, len(hull))).astype(np.float32))
        level = 10 ** (rng.uniform(-45, -26) / 20)
        samples[row, first * STEP : last * STEP] += _pink(noise)[0].numpy() * hull * level


def retune(mel: torch.Tensor, weight: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change vocal tract length and texture of a `(b, 80, frames)` log-mel, except its padding.

    Another length of the vocal tract moves the formants and keeps the pitch (Jaitly and Hinton,
    2013). Unevenness and muffled bands remove the regularity of a synthesizer.
    """
    count, bands, frames = mel.shape
    edges = hertz_to_mel(np.array([0.0, RATE / 2]), mel_scale="slaney")
    centres = np.linspace(edges[0], edges[1], bands + 2)[1:-1]
    hertz = mel_to_hertz(centres, mel_scale="slaney")
    changed = mel.clone()
    for row in range(count):
        stretch = np.exp(np.clip(rng.normal(0, _VOCAL_TRACT_DEVIATION), -0.16, 0.16))
        moved = hertz_to_mel(np.minimum(hertz * stretch, RATE / 2), mel_scale="slaney")
        at = np.clip((moved - centres[0]) / (centres[1] - centres[0]), 0, bands - 1)
        low = np.minimum(at.astype(int), bands - 2)
        share = torch.from_numpy((at - low).astype(np.float32))[:, None]
        changed[row] = mel[row, low] * (1 - share) + mel[row, low + 1] * share
        texture = rng.standard_normal((bands, frames)).astype(np.float32)
        changed[row] += torch.from_numpy(texture) * float(rng.uniform(0, _TEXTURE))
        if rng.random() < _MUFFLED:
            width = int(rng.integers(2, _WIDEST_MUFFLE))
            first = int(rng.integers(0, bands - width))
            changed[row, first : first + width] = changed[row].mean()
    heard = (weight > 0).repeat_interleave(frames // weight.shape[1], dim=1)[:, None]
    return torch.where(heard, changed, mel)


def augment(samples: Floats, weight: Floats, rng: np.random.Generator) -> torch.Tensor:
    """Change gain, tone, bandwidth, room and noise, as different recording chains do."""
    sound = torch.from_numpy(samples)
    count, length = sound.shape
    spectrum = torch.fft.rfft(sound)
    hertz = np.linspace(0, RATE / 2, spectrum.shape[1], dtype=np.float32)
    octave = np.log2(np.maximum(hertz, 60) / 60)
    response = np.ones((count, len(hertz)), np.float32)
    noise = np.zeros((count, length), np.float32)
    for row in range(count):
        knots = rng.normal(0, 4, 8)
        decibel = np.interp(octave, np.linspace(0, octave[-1], 8), knots) + rng.normal(0, 1.5) * (
            octave - 4
        )
        if rng.random() < 0.3:
            edge = rng.uniform(3000, 7500)
            decibel -= 40 * np.clip((hertz - edge) / 500, 0, 1.5)
        if rng.random() < 0.2:
            decibel -= 30 * np.clip((rng.uniform(100, 350) - hertz) / 100, 0, 1)
        response[row] = 10 ** (decibel / 20)
        level = 10 ** (rng.uniform(-55, -18) / 20) if rng.random() < 0.75 else 1e-5
        noise[row] = rng.standard_normal(length).astype(np.float32) * level
    shaped = torch.fft.irfft(spectrum * torch.from_numpy(response), length)
    shaped = shaped * _swells(count, length, rng)
    if rng.random() < 0.25:
        shaped = _reverberate(shaped, rng)
    loudness = shaped.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3)
    target = torch.from_numpy(10 ** (rng.uniform(-38, -12, (count, 1)) / 20)).float()
    shaped = shaped / loudness * target
    heard = torch.from_numpy(np.repeat(weight > 0, STEP, axis=1))
    tinted = torch.from_numpy(noise) if rng.random() < 0.5 else _pink(torch.from_numpy(noise))
    # The noise level is relative to the speech; the zero padding of the runtime stays zero.
    return torch.clamp(shaped + tinted * target * 3, -1, 1) * heard


def _swells(count: int, length: int, rng: np.random.Generator) -> torch.Tensor:
    """Return a slowly changing gain: people speak less evenly than a synthesizer."""
    knots = 2 + math.ceil(length / RATE / _SWELL_S)
    decibel = rng.normal(0, _SWELL_DB, (count, knots))
    at = np.linspace(0, knots - 1, length)
    gains = np.stack([10 ** (np.interp(at, np.arange(knots), row) / 20) for row in decibel])
    return torch.from_numpy(gains.astype(np.float32))


def _pink(noise: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(noise)
    tilt = torch.arange(1, spectrum.shape[1] + 1).float().rsqrt()
    coloured = torch.fft.irfft(spectrum * tilt, noise.shape[1])
    louder = noise.std(dim=1, keepdim=True) / coloured.std(dim=1, keepdim=True)
    scaled: torch.Tensor = coloured * louder
    return scaled


def _reverberate(sound: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    tail = round(rng.uniform(0.05, 0.25) * RATE)
    decay = np.exp(-6.9 * np.arange(tail) / tail) * rng.standard_normal(tail)
    impulse = np.zeros(tail, np.float32)
    impulse[0] = 1
    impulse += decay * rng.uniform(0.05, 0.3) / math.sqrt(float(np.sum(decay**2)))
    size = sound.shape[1] + tail
    product = torch.fft.rfft(sound, size) * torch.fft.rfft(torch.from_numpy(impulse), size)
    heard: torch.Tensor = torch.fft.irfft(product, size)
    return heard[:, : sound.shape[1]]
