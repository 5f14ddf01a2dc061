"""Writes what the repository ships besides the weights: prepared avatars and a spoken greeting."""

from __future__ import annotations

import wave
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.avatars import cache, geometry, masks, preparation
from avatar_training.crops import AVATAR_FRAMES
from avatar_training.face import draw_frame
from avatar_training.identities import IDENTITIES
from avatar_training.posing import FRAME, Mouth, face_box, redrawn_region, swaying
from avatar_training.sentences import DEMO_TEXT
from avatar_training.speech import Synthesizer, Voice, resample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHIPPED: Final = ("anna", "ben")
_CONSENT: Final = "Drawn by the project; no person is shown."
_DEMO_VOICE: Final = Voice("en-us+f3", words_per_minute=158, pitch=52, intonation=65)
_DEMO_RATE: Final = 24_000
_SIDE_INSET: Final = 7
_BOTTOM_INSET: Final = 4
"""Pixels between the redrawn region and the face box, so that the blur fades out inside it."""


def write_avatars(
    folder: Path, encoder: preparation.Encoder, names: Sequence[str] = SHIPPED
) -> None:
    """Draw and prepare each avatar into `folder/NAME`."""
    poses = swaying(AVATAR_FRAMES)
    for name in names:
        frames = [draw_frame(IDENTITIES[name], pose, Mouth()) for pose in poses]
        boxes = [geometry.Box(*face_box(pose)) for pose in poses]
        regions = []
        for pose, box in zip(poses, boxes, strict=True):
            crop = geometry.crop_box(box)
            kept = np.zeros((FRAME, FRAME), np.uint8)
            inner = (
                slice(box.y1, box.y2 - _BOTTOM_INSET),
                slice(box.x1 + _SIDE_INSET, box.x2 - _SIDE_INSET),
            )
            kept[inner] = redrawn_region(pose)[inner]
            region = masks.padded(kept, crop)
            regions.append(masks.feathered(region, box, crop))
        manifest, tensors = preparation.prepare(frames, boxes, regions, encoder)
        cache.write(folder / name, replace(manifest, consent=_CONSENT), tensors)


def write_speech(file: Path) -> None:
    """Speak the greeting with espeak-ng: 24 kHz mono PCM16."""
    synthesizer = Synthesizer()
    sound, _ = synthesizer.speak(DEMO_TEXT, _DEMO_VOICE)
    samples = resample(sound, round(len(sound) / synthesizer.rate * _DEMO_RATE))
    loudest = float(np.abs(samples).max())
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_DEMO_RATE)
        out.writeframes((samples * (0.7 * 32767 / loudest)).astype("<i2").tobytes())
