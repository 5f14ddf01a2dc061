"""Our networks beside those of the libraries that trained the published weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from avatar_runtime.engine.networks import musetalk, weight_files
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,  # importing the libraries takes seconds
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
_TOLERANCE = 2e-5  # float32, values about 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose every weight differs from its start, norms and biases too."""
    path = tmp_path_factory.mktemp("random")
    made = random_model.make(random_model.preset("tiny", "taesd"), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for network in made.networks().values():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    random_model.save(path, made)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> musetalk.MuseTalk:
    return musetalk.load(folder, decoder="taesd")


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def _document(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _filled(network: Any, state: dict[str, torch.Tensor]) -> Any:
    network.load_state_dict(state, strict=True)
    return network.eval()


@torch.inference_mode()
def test_the_unet_agrees_with_diffusers(folder: Path, ours: musetalk.MuseTalk) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = _document(folder / "musetalkV15/musetalk.json")
    theirs = _filled(UNet2DConditionModel.from_config(config), ours.unet.state_dict())
    latents, tokens = _random(2, 8, 16, 16), _random(2, 50, 64)

    expected = theirs(latents, 0, encoder_hidden_states=tokens).sample

    assert expected.std() > 0.1
    assert (ours.unet(latents, tokens) - expected).abs().max() < _TOLERANCE


@torch.inference_mode()
def test_the_vae_agrees_with_diffusers(folder: Path, ours: musetalk.MuseTalk) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = _document(folder / "sd-vae/config.json")
    theirs = _filled(AutoencoderKL.from_config(config), ours.vae.state_dict())
    latents, pictures = _random(2, 4, 16, 16), _random(2, 3, 128, 128).clamp(-1, 1)

    decoded = theirs.decode(latents / 0.18215).sample
    encoded = theirs.encode(pictures).latent_dist.mode() * 0.18215

    assert decoded.std() > 0.1
    assert (ours.vae.decode(latents) - decoded).abs().max() < 5 * _TOLERANCE
    assert (ours.vae.encode(pictures) - encoded).abs().max() < _TOLERANCE


@torch.inference_mode()
def test_the_small_decoder_agrees_with_diffusers(folder: Path, ours: musetalk.MuseTalk) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    config = _document(folder / "taesd/config.json")
    theirs = AutoencoderTiny.from_config(config)
    assert ours.taesd is not None
    state = ours.taesd.state_dict()
    left = theirs.load_state_dict(state, strict=False)
    assert left.unexpected_keys == []
    assert all(name.startswith("encoder.") for name in left.missing_keys)
    latents = 2 * _random(2, 4, 16, 16)

    decoded = theirs.eval().decode(latents).sample

    assert decoded.shape == (2, 3, 128, 128)
    assert decoded.std() > 0.05
    assert (ours.taesd.decode(latents) - decoded).abs().max() < _TOLERANCE


@torch.inference_mode()
def test_the_audio_encoder_agrees_with_transformers(folder: Path, ours: musetalk.MuseTalk) -> None:
    from transformers.models.whisper.configuration_whisper import WhisperConfig
    from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(**_document(folder / "whisper/config.json"))
    theirs = _filled(WhisperEncoder(config), ours.whisper.state_dict())
    extract = WhisperFeatureExtractor.from_pretrained(str(folder / "whisper"))
    samples = np.random.default_rng(6).normal(0, 0.1, 30_000).astype(np.float32)

    mel = extract(samples, sampling_rate=16_000, return_tensors="pt").input_features
    states = torch.stack(theirs(mel, output_hidden_states=True).hidden_states, dim=2)

    # The fifth state is the one after the final norm: settles section 16 of the reference.
    assert states.shape == (1, 150, 5, 64)
    assert (ours.encode_audio([samples]) - states).abs().max() < _TOLERANCE


def test_the_full_shapes_are_the_published_ones() -> None:
    full = musetalk.MuseTalk(random_model.preset("full", "taesd"), "v15", "")
    small = full.taesd
    assert small is not None
    counts = {
        "unet": sum(p.numel() for p in full.unet.parameters()),
        "decoder": sum(p.numel() for p in full.vae.decoder.parameters()),
        "encoder": sum(p.numel() for p in full.vae.encoder.parameters()),
        "whisper": sum(p.numel() for p in full.whisper.parameters()),
        "taesd": sum(p.numel() for p in small.parameters()),
    }

    millions = {name: round(count / 1e6, 2 if count < 1e7 else 1) for name, count in counts.items()}
    assert millions == {
        "unet": 849.9,
        "decoder": 49.5,
        "encoder": 34.2,
        "whisper": 8.21,
        "taesd": 1.22,
    }


def test_every_tensor_name_is_the_library_one(folder: Path, ours: musetalk.MuseTalk) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = _document(folder / "musetalkV15/musetalk.json")
    theirs = UNet2DConditionModel.from_config(config).state_dict()
    stored = weight_files.read(folder / "musetalkV15/unet.safetensors")

    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in stored.items()}
