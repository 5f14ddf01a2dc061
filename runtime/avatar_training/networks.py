"""The demo model's networks: the classes of MuseTalk v1.5 with small widths, and its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCALING_FACTOR: Final = 0.18215
STATES: Final = 5
WINDOW_STEPS: Final = 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """Widths of the three networks; the shipped configuration files contain them, too."""

    crop: int = 128
    context_steps: int = 150
    """Positions of the audio encoder at 50 Hz: 3 s."""
    audio_width: int = 96
    audio_heads: int = 4
    audio_feed_forward: int = 288
    vae_channels: Sequence[int] = (8, 24, 32, 32)
    vae_groups: int = 4
    unet_channels: Sequence[int] = (32, 64, 64, 64)
    unet_groups: int = 8
    unet_heads: int = 4


def audio_encoder(sizes: Sizes) -> WhisperModel:
    """Return a Whisper with four encoder layers; its decoder is as small as it can be."""
    config = WhisperConfig(
        vocab_size=8,
        num_mel_bins=80,
        d_model=sizes.audio_width,
        encoder_layers=STATES - 1,
        encoder_attention_heads=sizes.audio_heads,
        encoder_ffn_dim=sizes.audio_feed_forward,
        max_source_positions=sizes.context_steps,
        decoder_layers=1,
        decoder_attention_heads=1,
        decoder_ffn_dim=8,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperModel(config)


def autoencoder(sizes: Sizes) -> AutoencoderKL:
    """Return the image autoencoder: 4 latent channels, an eighth of the crop's side."""
    count = len(sizes.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=tuple(sizes.vae_channels),
        layers_per_block=1,
        norm_num_groups=sizes.vae_groups,
        latent_channels=4,
        sample_size=sizes.crop,
        scaling_factor=SCALING_FACTOR,
    )


def unet(sizes: Sizes) -> UNet2DConditionModel:
    """Return the one-step generator: 8 latent channels and 50 audio tokens in, 4 channels out."""
    return UNet2DConditionModel(
        sample_size=sizes.crop // 8,
        in_channels=8,
        out_channels=4,
        block_out_channels=tuple(sizes.unet_channels),
        layers_per_block=1,
        cross_attention_dim=sizes.audio_width,
        attention_head_dim=sizes.unet_heads,
        norm_num_groups=sizes.unet_groups,
    )


def save_audio_encoder(model: WhisperModel, folder: Path) -> None:
    """Write `whisper/`: the encoder's weights in fp16, with the log-mel's settings."""
    target = folder / "whisper"
    target.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(target)
    # MuseTalk uses only the encoder; the file omits the decoder.
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("encoder.")}
    _save_weights(weights, target / "model.safetensors")
    frames = model.config.max_source_positions * 2
    settings = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 80,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": frames // 100,
        "n_samples": frames * 160,
        "nb_max_frames": frames,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    _save_json(settings, target / "preprocessor_config.json")


def save_autoencoder(model: AutoencoderKL, folder: Path) -> None:
    """Write `sd-vae/`."""
    target = folder / "sd-vae"
    target.mkdir(parents=True, exist_ok=True)
    _save_json(_config(model), target / "config.json")
    _save_weights(model.state_dict(), target / "diffusion_pytorch_model.safetensors")


def save_unet(model: UNet2DConditionModel, folder: Path) -> None:
    """Write `musetalkV15/`."""
    target = folder / "musetalkV15"
    target.mkdir(parents=True, exist_ok=True)
    # `avatar-runtime prepare` warns of it: the mouths of other faces look wrong.
    _save_json({**_config(model), "trained_on": "drawn faces"}, target / "musetalk.json")
    _save_weights(model.state_dict(), target / "unet.safetensors")


def _config(model: Any) -> dict[str, Any]:
    settings = json.loads(model.to_json_string())
    return {k: v for k, v in settings.items() if k != "_name_or_path"}


def _save_json(settings: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _save_weights(weights: dict[str, torch.Tensor], file: Path) -> None:
    save_file({k: v.detach().to(torch.float16).contiguous() for k, v in weights.items()}, file)
