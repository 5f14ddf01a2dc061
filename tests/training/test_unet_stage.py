"""What the UNet hears in training is what the runtime gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from avatar_runtime.audio.utterance import Utterance as RuntimeUtterance
from avatar_runtime.engine.networks import whisper as runtime_whisper
from avatar_runtime.engine.networks.musetalk import load
from avatar_training import networks, unet_stage
from avatar_training.audio_stage import LOOK_AHEAD_STEPS, LogMel, random_contexts
from avatar_training.networks import Sizes
from avatar_training.speech import RATE, STEP, Utterance

TINY = Sizes(audio_width=32, audio_heads=2, audio_feed_forward=48, unet_channels=(8, 8, 8, 8))


def noise(steps: int, seed: int = 0) -> Utterance:
    rng = np.random.default_rng(seed)
    samples = np.round(rng.uniform(-0.5, 0.5, steps * STEP) * 32767) / 32768
    mouth = rng.random((steps, 5), dtype=np.float32)
    return Utterance(samples.astype(np.float32), mouth)


def test_the_log_mel_equals_that_of_whisper() -> None:
    sound = noise(150).samples
    theirs = WhisperFeatureExtractor(feature_size=80, chunk_length=3)
    expected = theirs(sound, sampling_rate=RATE, return_tensors="pt").input_features
    assert torch.allclose(LogMel()(torch.from_numpy(sound)[None]), expected, atol=1e-4)


def test_the_positional_encoding_equals_that_of_the_runtime() -> None:
    ours = unet_stage.positional_encoding(50, 96)
    assert torch.allclose(ours, runtime_whisper.positional_encoding(50, 96)[0], atol=1e-6)


def test_contexts_are_padded_at_the_end_as_the_runtime_pads_them() -> None:
    speech = [noise(400, seed) for seed in range(3)]
    contexts = random_contexts(speech, 24, 150, np.random.default_rng(1))
    padded = contexts.weight == 0
    assert padded.any()
    silent = contexts.samples.reshape(-1, 150, STEP).abs().amax(dim=2)
    assert float(silent[padded].max()) == 0
    assert contexts.samples.abs().max() <= 1


@pytest.mark.parametrize("frame", [0, 1, 5, 90, 118, 119])
def test_a_frame_gets_the_same_audio_context_in_training_and_in_the_runtime(frame: int) -> None:
    said = noise(240)
    runtime = RuntimeUtterance(RATE, 25, 3)
    runtime.append((said.samples * 32768).astype("<i2").tobytes())
    runtime.finish()
    window = runtime.take()[frame]
    heard = np.frombuffer(window.context, np.float32)

    for attempt in range(200):  # the group and the beginning are drawn: wait for the same
        context = unet_stage.runtime_context(said, frame, 150, np.random.default_rng(attempt))
        if len(context.samples) > len(heard):
            continue
        full = np.zeros(len(heard), np.float32)
        full[: len(context.samples)] = context.samples
        if context.first_step == window.first_step and np.allclose(full, heard, atol=2e-4):
            assert context.steps == window.steps
            return
    pytest.fail("no drawn context is the runtime's")


def test_window_tokens_are_row_major_with_zeros_outside_the_sound() -> None:
    states = [torch.full((20, 2), 10.0 * s) + torch.arange(20)[:, None] for s in range(5)]
    tokens = unet_stage.window_tokens(states, first_step=-2, steps=5).reshape(10, 5, 2)
    assert tokens[:2].abs().max() == 0
    assert tokens[7:].abs().max() == 0
    assert tokens[3, 4, 0] == 10 * 4 + 1
    assert LOOK_AHEAD_STEPS == 4


@pytest.mark.slow
@pytest.mark.parametrize("crop", [128, 256, 192])
def test_the_runtime_computes_the_trained_function_at_any_size(crop: int, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    torch.manual_seed(1)
    sizes = Sizes(
        crop=crop,
        audio_width=32,
        audio_heads=2,
        audio_feed_forward=48,
        vae_channels=(4, 4, 8, 8),
        unet_channels=(8, 16, 16, 16),
    )
    whisper = networks.audio_encoder(sizes).eval()
    vae = networks.autoencoder(sizes).eval()
    unet = networks.unet(sizes).eval()
    networks.save_audio_encoder(whisper, folder)
    networks.save_autoencoder(vae, folder)
    networks.save_unet(unet, folder)
    model = load(folder)
    assert model.crop_size == crop

    said = noise(150)
    rng = np.random.default_rng(2)
    latents = torch.from_numpy(rng.standard_normal((2, 8, crop // 8, crop // 8))).float()
    with torch.inference_mode():
        states = whisper.encoder(
            LogMel()(torch.from_numpy(said.samples)[None]), output_hidden_states=True
        ).hidden_states
        tokens = unet_stage.window_tokens([s[0] for s in states], 40, 150)
        encoded = (tokens + unet_stage.positional_encoding(50, 32)).expand(2, -1, -1)
        ours = vae.decode(unet(latents, 0, encoded).sample / vae.config.scaling_factor).sample

        features = model.encode_audio([said.samples])[0]
        window = model.window(features, 40, 150).expand(2, -1, -1)
        theirs = model.vae.decode(model.predict(latents, window))
    assert theirs.shape == (2, 3, crop, crop)
    # The files hold fp16: the last of eleven bits differ.
    assert torch.allclose(ours, theirs, atol=0.02)
    assert float(ours.std()) > 0.05
