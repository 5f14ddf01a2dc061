"""The second pass: smoothed boxes, masks and latents of each stored chunk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.avatars import cache, geometry, preparation
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import analysis, quality, tracking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.avatars.preparation import Encoder
    from avatar_runtime.preparation.masking import Masker
    from avatar_runtime.preparation.meter import Meter
    from avatar_runtime.preparation.progress import Progress
    from avatar_runtime.preparation.staging import Staging

STAGE: Final = "made"
_MAX_BATCH: Final = 10  # frames decoded at once: 60 MB of 1080p


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What the second pass does to each frame."""

    masker: Masker
    encoder: Encoder
    batch_size: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of the whole clip."""

    faces: Sequence[Box]
    crops: Sequence[Box]
    valid: Sequence[bool]
    size: tuple[int, int]
    """Width and height of the frames."""


def place(
    found: analysis.Analysis,
    sigma: float,
    width: int,
    height: int,
    crops: Sequence[Box] | None = None,
) -> Boxes:
    """Return the boxes of all frames: smoothed, and those of the nearest face where it is missing.

    At least one frame must have a face. `crops` are the crop boxes of all frames; `None`: those
    around the face boxes.
    """
    valid = found.valid
    raw = np.array(
        [(b.x1, b.y1, b.x2, b.y2) if (b := fact.box) else (0, 0, 0, 0) for fact in found.facts],
        np.float64,
    )
    steady = np.rint(tracking.smooth(raw, valid, quality.jumps(found.facts), sigma)).astype(int)
    nearest = tracking.nearest_valid(valid)
    faces = [Box(*map(int, steady[i])).clamped(width, height) for i in nearest]
    if crops is None:
        return Boxes(faces, [geometry.crop_box(face) for face in faces], valid, (width, height))
    return Boxes(faces, [crops[i] for i in nearest], valid, (width, height))


def make(
    found: analysis.Analysis,
    boxes: Boxes,
    recipe: Recipe,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> None:
    """Make and store every chunk that an earlier run did not finish."""
    waiting = [n for n in range(found.chunks) if staging.load(STAGE, n) is None]
    size = analysis.CHUNK_FRAMES
    total = len(found.facts)
    todo = sum(min(size, total - n * size) for n in waiting)
    progress.stage("encode", total, total - todo)
    for number in waiting:
        part = slice(number * size, min((number + 1) * size, total))
        chunk = Boxes(boxes.faces[part], boxes.crops[part], boxes.valid[part], boxes.size)
        tensors = _make_chunk(number, chunk, recipe, staging, meter, progress)
        staging.save(STAGE, number, tensors)


def _make_chunk(
    number: int,
    boxes: Boxes,
    recipe: Recipe,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> dict[str, NDArray[Any]]:
    frames = analysis.load_frames(staging, number, boxes.size)
    faces = analysis.load_faces(staging, number)
    step = min(recipe.batch_size, _MAX_BATCH)
    latents: list[NDArray[np.float16]] = []
    masks: list[NDArray[np.uint8]] = []
    for at in range(0, len(faces), step):
        here = list(islice(frames, step))
        part = slice(at, at + len(here))
        with meter.stage("read", len(here)):
            pixels = [one.pixels(box) for one, box in zip(here, boxes.faces[part], strict=True)]
        with meter.stage("mask", len(here)):
            first = number * analysis.CHUNK_FRAMES + at
            masks += recipe.masker.masks(
                first, here, boxes.faces[part], boxes.crops[part], faces[part]
            )
        with meter.stage("latents", len(here)):
            whole = [Box(0, 0, face.shape[1], face.shape[0]) for face in pixels]
            latents.append(preparation.encode_latents(pixels, whole, recipe.encoder, step))
        progress.advance(len(here))
    return _tensors(boxes, masks, np.concatenate(latents))


def _tensors(
    boxes: Boxes, masks: list[NDArray[np.uint8]], latents: NDArray[np.float16]
) -> dict[str, NDArray[Any]]:
    # A frame whose mask is empty would show no generated pixel, and is refused when it is read.
    shown = [
        known and bool(_inside(mask, face, crop).any())
        for known, mask, face, crop in zip(
            boxes.valid, masks, boxes.faces, boxes.crops, strict=True
        )
    ]
    flat, offsets = cache.pack(masks)
    return {
        "latents": latents,
        "boxes": _rows(boxes.faces),
        "crop_boxes": _rows(boxes.crops),
        "masks": flat,
        "mask_offsets": offsets,
        "valid": np.array(shown, np.uint8),
    }


def _inside(mask: NDArray[np.uint8], face: Box, crop: Box) -> NDArray[np.uint8]:
    box = face.relative_to(crop)
    return mask[box.y1 : box.y2, box.x1 : box.x2]


def _rows(boxes: Sequence[Box]) -> NDArray[np.int32]:
    return np.array([[b.x1, b.y1, b.x2, b.y2] for b in boxes], np.int32)
