"""Closes the mouth of source frames that are shown in silence.

A clip of a talking person would talk in silence. Where the mouth of a source frame is open, the
preparation draws the frame once with the sound of silence. A model may copy an open mouth from
the reference picture, as the demo model does, so the reference is a frame with a closed mouth.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.preparation.faces import OPEN_GAP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.avatars.cache import Avatar

CLOSED_GAP: Final = 0.012
"""Next to an open frame, a mouth counts as open down to this gap."""
JOINED_FRAMES: Final = 12
"""Closed frames between two open ones that are drawn as well: half a second at 25 fps."""
_RAMP: Final = (2 / 3, 1 / 3)  # opacities of the closed frames next to drawn ones
_SILENCE_STEPS: Final = 50  # of 20 ms, with the window in the middle
_STEP: Final = 320  # samples of a step
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Closing:
    """How the mouth of one stored frame is closed."""

    opacity: float
    """Weight of the drawing over the source picture, over 0 to 1."""
    reference: int
    """Stored frame whose reference latent the model gets: the nearest one with a closed mouth."""


class Model(Protocol):
    """The part of a model that draws faces."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def context_samples(self) -> int: ...

    def encode_audio(self, contexts: Sequence[NDArray[np.float32]]) -> Tensor: ...

    def window(self, features: Tensor, first_step: int, steps: int) -> Tensor: ...

    def predict(self, latents: Tensor, tokens: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


def open_mouths(gaps: Sequence[float | None]) -> dict[int, Closing]:
    """Return the frames that are drawn with the mouth closed, in order.

    `gaps` has `Face.lip_gap` of each frame; `None`: no face, so that nothing is drawn. Open frames
    that are close in time form one run, so that the picture does not change between source and
    drawing with every syllable. The opacity in a run is 1. In the two frames on each side of it,
    whose mouths are closed in the source as well, it is 2/3 and 1/3: the drawing fades in and out.
    """
    opacities: dict[int, float] = {}
    for begin, end in _runs(gaps):
        opacities |= dict.fromkeys(range(begin, end), 1.0)
        for distance, opacity in enumerate(_RAMP, 1):
            for index in (begin - distance, end - 1 + distance):
                opacities[index] = max(opacity, opacities.get(index, 0.0))
    drawn = [i for i in sorted(opacities) if 0 <= i < len(gaps) and gaps[i] is not None]
    references = _references(gaps)
    return {
        i: Closing(opacities[i], min(references, key=lambda closed: (abs(closed - i), closed)))
        for i in drawn
    }


def _references(gaps: Sequence[float | None]) -> list[int]:
    """Return the frames with a closed mouth; without one, the frame that is closest to it."""
    closed = [i for i, gap in enumerate(gaps) if gap is not None and gap < CLOSED_GAP]
    faces = [(gap, i) for i, gap in enumerate(gaps) if gap is not None]
    return closed or [i for _, i in sorted(faces)[:1]]


def _runs(gaps: Sequence[float | None]) -> list[tuple[int, int]]:
    """Return the first frame of each run and the one after its last, in order."""
    runs: list[tuple[int, int]] = []
    for is_open, group in itertools.groupby(
        range(len(gaps)), lambda i: (gaps[i] or 0.0) >= CLOSED_GAP
    ):
        frames = list(group)
        if not is_open or max(gaps[i] or 0.0 for i in frames) < OPEN_GAP:
            continue
        begin, end = frames[0], frames[-1] + 1
        if runs and begin - runs[-1][1] <= JOINED_FRAMES:
            begin = runs.pop()[0]
        runs.append((begin, end))
    return runs


def draw(
    model: Model, avatar: Avatar, closings: Mapping[int, Closing]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of stored frames with the mouth of silence, `(h, w, 3) uint8` BGR.

    `closings` is the result of `open_mouths`; the pictures come in its order. `avatar` has no
    idle pictures yet. A picture equals the source picture outside the blend mask.
    """
    tokens = _silence(model)
    items = list(closings.items())
    for at in range(0, len(items), _BATCH):
        part = items[at : at + _BATCH]
        faces = _faces(model, _latents(avatar, part), tokens)
        for (index, closing), face in zip(part, faces, strict=True):
            yield blend_host.compose(avatar, index, face, closing.opacity)


def tensors(
    model: Model, avatar: Avatar, closings: Mapping[int, Closing]
) -> dict[str, NDArray[Any]]:
    """Return `idle_pixels` and `idle_offsets` of an avatar; nothing if no mouth is open."""
    if not closings:
        return {}
    pictures = zip(closings, draw(model, avatar, closings), strict=True)
    files = {index: idle_pictures.encode(avatar, index, picture) for index, picture in pictures}
    none = np.zeros(0, np.uint8)
    pixels, offsets = cache.pack([files.get(i, none) for i in range(avatar.manifest.frames)])
    return {"idle_pixels": pixels, "idle_offsets": offsets}


def _latents(avatar: Avatar, part: Sequence[tuple[int, Closing]]) -> Tensor:
    """Return `(n, 8, s, s)`: the masked latent of each frame, and its reference."""
    stored = np.asarray(avatar.latents)
    latents = stored[[index for index, _ in part]]
    half = latents.shape[1] // 2
    latents[:, half:] = stored[[closing.reference for _, closing in part], half:]
    return torch.from_numpy(latents)


@torch.inference_mode()
def _silence(model: Model) -> Tensor:
    """Return the tokens of a frame in digital silence, `(tokens, width)`."""
    steps = min(_SILENCE_STEPS, model.context_samples // _STEP)
    features = model.encode_audio([np.zeros(steps * _STEP, np.float32)])
    return model.window(features[0], steps // 2 - 5, steps)


@torch.inference_mode()
def _faces(model: Model, latents: Tensor, tokens: Tensor) -> NDArray[np.uint8]:
    """Return faces from latents `(n, 8, s, s)`, `(n, c, c, 3) uint8` BGR."""
    moved = latents.to(model.device, model.dtype)
    predicted = model.predict(moved, tokens.expand(len(latents), *tokens.shape))
    return np.asarray(model.decode(predicted).cpu().numpy(), np.uint8)
