"""How far a streamed session is from the result on the whole clip, by look-ahead.

The encoder looks both ways, so what a frame's features are depends on how much of the future it
heard. A clip is cut into pieces of the length that the model hears at once, and each piece is
spoken to a session and encoded as a whole: all that differs then is the future.
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
"""Sound from a frame's start that its trained window hears."""
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn, with which networks."""

    networks: musetalk.MuseTalk
    avatar: cache.Avatar


def run(
    model_dir: Path, avatar_dir: Path, audio: Path, lookaheads_ms: Sequence[int]
) -> dict[str, Any]:
    """Return the table, one row a look-ahead, in order.

    Raises:
        AssetError: the sound, the model or the avatar is unusable.
    """
    scene = Scene(musetalk.load(model_dir), cache.read(avatar_dir))
    sound = lipsync.read_sound(audio)
    with torch.inference_mode():
        reference = _whole_clip(scene.networks, sound)
        shown = _drawn(scene, reference)
        rows = [_row(scene, sound, ms, reference, shown) for ms in lookaheads_ms]
    return {
        "model": model_dir.name,
        "audio": audio.name,
        "frames": len(reference),
        "context_s": scene.networks.context_samples / resampling.RATE,
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
    scene: Scene,
    sound: lipsync.Sound,
    lookahead_ms: int,
    reference: Tensor,
    shown: Sequence[NDArray[np.float32]],
) -> dict[str, Any]:
    streamed = _streamed(scene.networks, sound, lookahead_ms)
    cosine = functional.cosine_similarity(streamed.flatten(1), reference.flatten(1))
    pairs = zip(_drawn(scene, streamed), shown, strict=True)
    error = float(np.mean([np.mean((a - b) ** 2) for a, b in pairs]))
    return {
        "lookahead_ms": lookahead_ms,
        "needs_ms": WINDOW_MS + lookahead_ms,
        "cosine_mean": round(float(cosine.mean()), 5),
        "cosine_min": round(float(cosine.min()), 5),
        "max_abs": round(float((streamed - reference).abs().max()), 4),
        "mouth_psnr_db": round(10 * float(np.log10(255**2 / max(error, 1e-9))), 2),
    }


def _streamed(networks: musetalk.MuseTalk, sound: lipsync.Sound, lookahead_ms: int) -> Tensor:
    """Return `(frames, tokens, width)` as sessions hear them."""
    context_s = networks.context_samples // resampling.RATE
    tokens: list[Tensor] = []
    for piece in _pieces(networks, sound):
        speech = utterance.Utterance(sound.rate, FPS, context_s, utterance.Hearing(lookahead_ms))
        speech.append(piece.astype("<i2").tobytes())
        speech.finish()
        groups: dict[int, Tensor] = {}
        for window in speech.take():
            if window.group not in groups:
                groups = {window.group: _encoded(networks, window)}
            features = groups[window.group]
            tokens.append(networks.window(features, window.first_step, window.steps))
    return torch.stack(tokens)


def _pieces(networks: musetalk.MuseTalk, sound: lipsync.Sound) -> list[NDArray[np.int16]]:
    length = networks.context_samples * sound.rate // resampling.RATE
    return [sound.samples[at : at + length] for at in range(0, len(sound.samples), length)]


def _encoded(networks: musetalk.MuseTalk, window: AudioWindow) -> Tensor:
    return networks.encode_audio([np.frombuffer(window.context, np.float32)])[0]


def _whole_clip(networks: musetalk.MuseTalk, sound: lipsync.Sound) -> Tensor:
    """Return `(frames, tokens, width)` of pieces that are encoded as a whole."""
    tokens: list[Tensor] = []
    for piece in _pieces(networks, sound):
        resampler = resampling.Resampler(sound.rate)
        parts = [resampler.push(piece.astype(np.float64) / 32768.0), resampler.finish()]
        frames = -(-len(piece) * FPS // sound.rate)
        steps = frames * utterance.STEPS_PER_S // FPS
        heard = np.zeros(steps * utterance.STEP, np.float32)
        samples = np.concatenate(parts)[: len(heard)]
        heard[: len(samples)] = samples
        features = networks.encode_audio([heard])[0]
        for frame in range(frames):
            first = frame * utterance.STEPS_PER_S // FPS - utterance.STEPS_BEFORE
            tokens.append(networks.window(features, first, steps))
    return torch.stack(tokens)


def _drawn(scene: Scene, tokens: Tensor) -> list[NDArray[np.float32]]:
    """Return the pixels under the mask of every frame."""
    avatar, networks = scene.avatar, scene.networks
    latents = torch.from_numpy(np.asarray(avatar.latents)).to(networks.device, networks.dtype)
    mouths = []
    for at in range(0, len(tokens), _BATCH):
        part = tokens[at : at + _BATCH]
        places = [cache.fold(at + i, avatar.manifest.frames) for i in range(len(part))]
        faces = networks.decode(networks.predict(latents[places], part)).cpu().numpy()
        for index, face in zip(places, faces, strict=True):
            box = avatar.box(index)
            picture = blend_host.compose(avatar, index, face)[box.y1 : box.y2, box.x1 : box.x2]
            mouths.append(picture[avatar.mask(index) > 0].astype(np.float32))
    return mouths
