"""Reference numbers of the pipeline between the networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_runtime.engine.networks import musetalk, vae, whisper


def test_the_first_frame_sees_zeros_before_the_speech(tiny: musetalk.MuseTalk) -> None:
    features = torch.ones(150, 5, 64)

    tokens = tiny.window(features, -4, 150)

    assert tokens.shape == (50, 64)
    assert (tokens[:20] == 0).all()
    assert (tokens[20:] == 1).all()


def test_tokens_are_steps_first_then_states(tiny: musetalk.MuseTalk) -> None:
    features = torch.arange(150 * 5).view(150, 5, 1).expand(-1, -1, 64).float()

    tokens = tiny.window(features, 7, 150)

    assert tokens[:, 0].tolist() == list(range(35, 85))


@pytest.mark.parametrize(
    ("first", "steps", "zeros"),
    [(44, 50, 4), (50, 50, 10), (60, 50, 10), (-4, 0, 10), (-12, 50, 10), (-4, 3, 7)],
)
def test_steps_outside_the_speech_are_zero(
    tiny: musetalk.MuseTalk, first: int, steps: int, zeros: int
) -> None:
    rows = tiny.window(torch.ones(150, 5, 64), first, steps).view(10, -1)

    assert int((rows == 0).all(dim=1).sum()) == zeros


@pytest.mark.parametrize(("decoded", "byte"), [(-1.0, 0), (0.0, 128), (1.0, 255), (1.7, 255)])
def test_pixels_are_rounded_half_to_even_and_clamped(decoded: float, byte: int) -> None:
    assert vae.to_bytes(torch.full((1, 3, 2, 2), decoded)).flatten().tolist() == [byte] * 12


def test_images_are_bgr_rows() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 4)

    assert vae.to_bytes(red)[0, 0, 0].tolist() == [0, 0, 255]
    assert vae.to_bytes(red).shape == (1, 2, 4, 3)


def test_positions_alternate_sines_and_cosines() -> None:
    encoding = whisper.positional_encoding(50, 384)

    assert encoding.shape == (1, 50, 384)
    assert encoding[0, 0, :4].tolist() == [0, 1, 0, 1]
    assert encoding[0, 3, 0] == pytest.approx(np.sin(3))
    assert encoding[0, 3, 3] == pytest.approx(np.cos(3 * 10_000 ** (-2 / 384)))


def test_no_weight_and_no_result_requires_a_gradient(tiny: musetalk.MuseTalk) -> None:
    latents, tokens = torch.zeros(1, 8, 16, 16), torch.zeros(1, 50, 64)

    assert not any(p.requires_grad for n in tiny.networks().values() for p in n.parameters())
    assert not tiny.predict(latents, tokens).requires_grad


def test_audio_shorter_than_the_context_is_padded_with_silence(tiny: musetalk.MuseTalk) -> None:
    short = np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)
    padded = np.concatenate([short, np.zeros(40_000, np.float32)])

    with torch.inference_mode():
        features = tiny.encode_audio([short, padded])

    assert features.shape == (2, 150, 5, 64)
    assert (features[0] - features[1]).abs().max() < 1e-5
