"""The model as the preparation uses it: latents, idle pictures and the preview."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from avatar_runtime import errors
from avatar_runtime.engine.device import PRECISIONS
from avatar_runtime.engine.networks import musetalk, weights
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.preparation import idle, preview

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.avatars.preparation import Encoder

_DTYPES: Final = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))
_STEPS_PER_S: Final = 50
TRAINED_ON: Final = "trained_on"
"""Field of `musetalk.json` that names unusual training data, as the demo model has it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model and the sound of the preview."""

    model: musetalk.MuseTalk
    sound: tuple[NDArray[np.int16], int]
    """Mono PCM16 and its rate."""

    @property
    def encoder(self) -> Encoder:
        return self.model

    def draw_idle(
        self, avatar: Avatar, closings: Mapping[int, idle.Closing]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of an avatar as they look in silence, `(h, w, 3) uint8` BGR."""
        return idle.draw(self.model, avatar, closings)

    def draw_preview(self, avatar: Avatar) -> NDArray[np.uint8]:
        """Return the contact sheet as a JPEG file."""
        return preview.sheet(avatar, lambda indices: self._spoken(avatar, indices))

    @torch.inference_mode()
    def _spoken(self, avatar: Avatar, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        model, (samples, rate) = self.model, self.sound
        context_s = model.config.whisper.max_source_positions // _STEPS_PER_S
        drawn = []
        for index, window in zip(
            indices, preview.windows(samples, rate, context_s, len(indices)), strict=True
        ):
            context = np.frombuffer(window.context, np.float32)
            features = model.encode_audio([context])[0]
            tokens = model.window(features, window.first_step, window.steps)
            latents = torch.from_numpy(np.array(avatar.latents[index : index + 1]))
            predicted = model.predict(latents.to(model.device, model.dtype), tokens[None])
            face = np.asarray(model.decode(predicted).cpu().numpy()[0], np.uint8)
            drawn.append(blend_host.compose(avatar, index, face))
        return drawn


def load(
    folder: Path, device: str, precision: str | None, version: str | None, sound: Path | None
) -> LoadedModel:
    """Return the model of a folder on a device, in float32 unless `precision` says otherwise.

    Raises:
        AssetError: the model or the sound is unusable.
        EngineError: the device is missing.
    """
    given = (preview.vowel(), 16_000) if sound is None else preview.read_sound(sound)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise errors.EngineError("device is cuda, but this process sees no CUDA device")
    weights.verify(folder)
    model = musetalk.read(folder, version)
    return LoadedModel(model.to(torch.device(device), _DTYPES[precision or "fp32"]), given)


def warnings(folder: Path, version: str | None) -> list[str]:
    """Return what the user must know of a model before an avatar is prepared with it."""
    path = weights.find(folder, version).unet_config
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.AssetError(str(path), f"unreadable: {error}") from error
    trained_on = document.get(TRAINED_ON) if isinstance(document, dict) else None
    if not isinstance(trained_on, str):
        return []
    return [
        f"the model was trained on {trained_on[:80]}, so the mouth of any other face looks wrong, "
        "also in the pictures for silence, which the model redraws"
    ]
