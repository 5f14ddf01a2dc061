"""The difference between a streamed session and the result on the whole clip, by look-ahead.

The encoder is bidirectional, so the features of a frame depend on the audio after it that the
encoder gets. A clip is split into pieces of one context; each piece is streamed like a session
and encoded as a whole. Only the audio after a frame differs between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn import functional

from avatar_runtime.audio import resampling, utterance
from avatar_runtime.avatars import cache
from avatar_runtime.engine.networks import musetalk
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.tools import lipsync

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import AudioWindow

FPS: Final = 25
WINDOW_MS: Final = 120
"""Milliseconds of audio in the trained window from the start of its frame."""
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class RenderInputs:
    """The networks and the avatar."""

    networks: musetalk.MuseTalk
    avatar: cache.Avatar


def run(
    model_dir: Path, avatar_dir: Path, audio: Path, lookaheads_ms: Sequence[int]
) -> dict[str, Any]:
    """Return the table, one row for each look-ahead, in order.

    Raises:
        AssetError: the audio, the model or the avatar is unusable.
    """
    inputs = RenderInputs(musetalk.load(model_dir), cache.read(avatar_dir))
    clip = lipsync.read_audio(audio)
    with torch.inference_mode():
        reference = _whole_clip(inputs.networks, clip)
        expected = _mouth_pixels(inputs, reference)
        rows = [_row(inputs, clip, ms, reference, expected) for ms in lookaheads_ms]
    return {
        "model": model_dir.name,
        "audio": audio.name,
        "frames": len(reference),
        "context_s": inputs.networks.context_samples / resampling.RATE,
        "rows": rows,
    }


def table(document: dict[str, Any]) -> str:
    """Return the document as a table of Markdown."""
    lines = [
        "| look-ahead past the window | a frame needs sound to | cosine, mean | cosine, least "
        "| largest difference | mouth PSNR |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['lookahead_ms']} ms | {row['needs_ms']} ms | {row['cosine_mean']:.4f} "
        f"| {row['cosine_min']:.4f} | {row['max_abs']:.2f} | {row['mouth_psnr_db']:.1f} dB |"
        for row in document["rows"]
    ]
    return "\n".join(lines)


def _row(
    inputs: RenderInputs,
    clip: lipsync.AudioClip,
    lookahead_ms: int,
    reference: Tensor,
    expected: Sequence[NDArray[np.float32]],
) -> dict[str, Any]:
    streamed = _streamed(inputs.networks, clip, lookahead_ms)
    cosine = functional.cosine_similarity(streamed.flatten(1), reference.flatten(1))
    pairs = zip(_mouth_pixels(inputs, streamed), expected, strict=True)
    error = float(np.mean([np.mean((a - b) ** 2) for a, b in pairs]))
    return {
        "lookahead_ms": lookahead_ms,
        "needs_ms": WINDOW_MS + lookahead_ms,
        "cosine_mean": round(float(cosine.mean()), 5),
        "cosine_min": round(float(cosine.min()), 5),
        "max_abs": round(float((streamed - reference).abs().max()), 4),
        "mouth_psnr_db": round(10 * float(np.log10(255**2 / max(error, 1e-9))), 2),
    }


def _streamed(networks: musetalk.MuseTalk, clip: lipsync.AudioClip, lookahead_ms: int) -> Tensor:
    """Return the tokens `(frames, tokens, width)` of streamed sessions."""
    context_s = networks.context_samples // resampling.RATE
    tokens: list[Tensor] = []
    for piece in _pieces(networks, clip):
        speech = utterance.Utterance(
            clip.rate, FPS, context_s, utterance.AudioOptions(lookahead_ms)
        )
        speech.append(piece.astype("<i2").tobytes())
        speech.finish()
        groups: dict[int, Tensor] = {}
        for window in speech.take():
            if window.group not in groups:
                groups = {window.group: _encoded(networks, window)}
            features = groups[window.group]
            tokens.append(networks.window(features, window.first_step, window.steps))
    return torch.stack(tokens)


def _pieces(networks: musetalk.MuseTalk, clip: lipsync.AudioClip) -> list[NDArray[np.int16]]:
    length = networks.context_samples * clip.rate // resampling.RATE
    return [clip.samples[at : at + length] for at in range(0, len(clip.samples), length)]


def _encoded(networks: musetalk.MuseTalk, window: AudioWindow) -> Tensor:
    return networks.encode_audio([np.frombuffer(window.context, np.float32)])[0]


def _whole_clip(networks: musetalk.MuseTalk, clip: lipsync.AudioClip) -> Tensor:
    """Return the tokens `(frames, tokens, width)` of pieces that are encoded as a whole."""
    tokens: list[Tensor] = []
    for piece in _pieces(networks, clip):
        resampler = resampling.Resampler(clip.rate)
        parts = [resampler.push(piece.astype(np.float64) / 32768.0), resampler.finish()]
        frames = -(-len(piece) * FPS // clip.rate)
        steps = frames * utterance.STEPS_PER_S // FPS
        padded = np.zeros(steps * utterance.STEP, np.float32)
        samples = np.concatenate(parts)[: len(padded)]
        padded[: len(samples)] = samples
        features = networks.encode_audio([padded])[0]
        for frame in range(frames):
            first = frame * utterance.STEPS_PER_S // FPS - utterance.STEPS_BEFORE
            tokens.append(networks.window(features, first, steps))
    return torch.stack(tokens)


def _mouth_pixels(inputs: RenderInputs, tokens: Tensor) -> list[NDArray[np.float32]]:
    """Return the pixels under the blend mask of every frame."""
    avatar, networks = inputs.avatar, inputs.networks
    latents = torch.from_numpy(np.asarray(avatar.latents)).to(networks.device, networks.dtype)
    mouths = []
    for at in range(0, len(tokens), _BATCH):
        part = tokens[at : at + _BATCH]
        indices = [cache.fold(at + i, avatar.manifest.frames) for i in range(len(part))]
        faces = networks.decode(networks.predict(latents[indices], part)).cpu().numpy()
        for index, face in zip(indices, faces, strict=True):
            box = avatar.box(index)
            image = blend_host.compose(avatar, index, face)[box.y1 : box.y2, box.x1 : box.x2]
            mouths.append(image[avatar.mask(index) > 0].astype(np.float32))
    return mouths
