"""Writes a MuseTalk folder with random weights of a fixed seed, and an avatar for it.

`full` has the published shapes, for benchmarks; `tiny` has the shapes of the small model in the
repository, for tests.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from avatar_runtime.avatars import geometry, masks, preparation
from avatar_runtime.engine.networks import musetalk, taesd, unet, vae, weights, whisper

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

PRESETS: Final[Mapping[str, musetalk.ModelConfig]] = {
    "full": musetalk.ModelConfig(unet.UNetConfig(), vae.VAEConfig(), whisper.WhisperConfig()),
    "tiny": musetalk.ModelConfig(
        unet.UNetConfig(
            block_out_channels=(32, 48, 64, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            norm_num_groups=8,
        ),
        vae.VAEConfig(
            block_out_channels=(8, 16, 32, 32),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=128,
        ),
        whisper.WhisperConfig(
            d_model=64,
            encoder_attention_heads=2,
            encoder_ffn_dim=192,
            max_source_positions=150,
        ),
    ),
}


TINY_DECODERS: Final[Mapping[str, taesd.TinyConfig]] = {
    "full": taesd.TinyConfig(),
    "tiny": taesd.TinyConfig((8, 8, 8, 8), (1, 1, 1, 1)),
}
"""The small decoder that can replace the VAE decoder of each preset."""


def preset(name: str, decoder: str = "sd-vae") -> musetalk.ModelConfig:
    """Return the sizes of a preset with one of `device.DECODERS`."""
    small = TINY_DECODERS[name] if decoder == "taesd" else None
    return replace(PRESETS[name], taesd=small)


def make(config: musetalk.ModelConfig, seed: int = 0) -> musetalk.MuseTalk:
    """Return a model with torch's default initialisation under `seed`, ready to be trained."""
    made = musetalk.MuseTalk(config, "v15", "")
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    for name, network in made.networks().items():
        network.apply(_reset)
        if name == "whisper":
            _set_sinusoids(network)
    torch.set_rng_state(generator_state)
    return made


def write(folder: Path, config: musetalk.ModelConfig, seed: int = 0) -> None:
    """Write a folder of seeded weights."""
    save(folder, make(config, seed))


def save(folder: Path, made: musetalk.MuseTalk) -> None:
    """Write a v1.5 folder of any model's weights and sizes, as safetensors in float32."""
    config = made.config
    documents: dict[str, dict[str, Any]] = {
        "musetalkV15/musetalk.json": {
            "_class_name": "UNet2DConditionModel",
            **asdict(config.unet),
            **musetalk.UNET_FIXED,
            "sample_size": config.vae.latent_size,
        },
        "sd-vae/config.json": {
            "_class_name": "AutoencoderKL",
            **asdict(config.vae),
            **musetalk.VAE_FIXED,
            "down_block_types": ["DownEncoderBlock2D"] * len(config.vae.block_out_channels),
            "up_block_types": ["UpDecoderBlock2D"] * len(config.vae.block_out_channels),
        },
        "whisper/config.json": {
            "model_type": "whisper",
            **asdict(config.whisper),
            **musetalk.WHISPER_FIXED,
        },
        "whisper/preprocessor_config.json": _preprocessor(config.whisper),
    }
    if config.taesd is not None:
        documents["taesd/config.json"] = {
            "_class_name": "AutoencoderTiny",
            **asdict(config.taesd),
            **musetalk.TAESD_FIXED,
        }
    for name, document in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    files = {
        "unet": "musetalkV15/unet.safetensors",
        "vae": "sd-vae/diffusion_pytorch_model.safetensors",
        "whisper": "whisper/model.safetensors",
        "taesd": "taesd/diffusion_pytorch_model.safetensors",
    }
    for name, network in made.networks().items():
        prefix = weights.WHISPER_PREFIX if name == "whisper" else ""
        tensors = {f"{prefix}{k}": v.contiguous() for k, v in network.state_dict().items()}
        save_file(tensors, folder / files[name], metadata={"format": "pt"})
        (folder / files[name]).chmod(0o644)  # safetensors makes the file private to its owner


def write_avatar(folder: Path, encoder: preparation.Encoder, frames: int = 6) -> str:
    """Write an avatar with a drawn face that moves; return its content hash."""
    box = geometry.Box(44, 36, 148, 156)
    images = [_drawn_face(box, 2 * (i % 3)) for i in range(frames)]
    crop = geometry.crop_box(box)
    mask = masks.feathered(masks.ellipse(box, crop), box, crop)
    boxes, all_masks = [box] * frames, [mask] * frames
    return preparation.write(folder, images, boxes, all_masks, encoder, mask_mode="ellipse")


def _drawn_face(box: geometry.Box, shift: int) -> NDArray[np.uint8]:
    image = np.full((192, 192, 3), (120, 96, 80), np.uint8)
    x, y = (box.x1 + box.x2) // 2 + shift, (box.y1 + box.y2) // 2
    cv2.ellipse(image, (x, y), (46, 58), 0, 0, 360, (150, 180, 225), cv2.FILLED)
    for side in (-18, 18):
        cv2.circle(image, (x + side, y - 14), 6, (60, 40, 40), cv2.FILLED)
    cv2.ellipse(image, (x, y + 30), (16, 5), 0, 0, 360, (70, 60, 160), cv2.FILLED)
    return image


def _preprocessor(config: whisper.WhisperConfig) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config.num_mel_bins,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": config.max_source_positions // 50,
        "n_samples": config.context_samples,
        "nb_max_frames": 2 * config.max_source_positions,
        "sampling_rate": whisper.SAMPLE_RATE,
    }


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def _set_sinusoids(network: nn.Module) -> None:
    """Set the position embeddings as Whisper does: sines, then cosines."""
    table: torch.Tensor = network.get_parameter("embed_positions.weight")
    positions, width = table.shape
    half = width // 2
    rates = torch.exp(-torch.arange(half) * (torch.log(torch.tensor(10_000.0)) / (half - 1)))
    angles = torch.arange(positions)[:, None] * rates[None]
    with torch.no_grad():
        table.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))
