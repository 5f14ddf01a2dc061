"""The second pass: smoothed boxes, masks, latents and idle pictures of each stored chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from avatar_runtime.avatars import cache, geometry, preparation
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import analysis, quality, tracking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    drawer: Callable[[cache.Avatar, Sequence[int]], list[NDArray[np.uint8]]]
    """Returns frames of an avatar as they look in silence, `(h, w, 3) uint8` BGR."""
    manifest: Callable[[Sequence[int], int], cache.Manifest]
    """Returns a manifest for the invalid frames and the number of frames."""
    batch_size: int
    pixels: str


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of the whole clip."""

    faces: Sequence[Box]
    crops: Sequence[Box]
    valid: Sequence[bool]


def place(found: analysis.Analysis, sigma: float, width: int, height: int) -> Boxes:
    """Return the boxes of all frames: smoothed, and those of the nearest face where it is missing.

    At least one frame must have a face.
    """
    valid = found.valid
    raw = np.array(
        [(b.x1, b.y1, b.x2, b.y2) if (b := fact.box) else (0, 0, 0, 0) for fact in found.facts],
        np.float64,
    )
    steady = np.rint(tracking.smooth(raw, valid, quality.jumps(found.facts), sigma)).astype(int)
    steady = steady[tracking.nearest_valid(valid)]
    faces = [Box(*map(int, row)).clamped(width, height) for row in steady]
    return Boxes(faces, [geometry.crop_box(face) for face in faces], valid)


def make(
    found: analysis.Analysis,
    boxes: Boxes,
    opened: Sequence[int],
    recipe: Recipe,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> None:
    """Make and store every chunk that an earlier run did not finish.

    `opened` are the frames whose idle picture is drawn.
    """
    waiting = [n for n in range(found.chunks) if staging.load(STAGE, n) is None]
    size = analysis.CHUNK_FRAMES
    total = len(found.facts)
    todo = sum(min(size, total - n * size) for n in waiting)
    progress.stage("encode", total, total - todo)
    for number in waiting:
        part = slice(number * size, min((number + 1) * size, total))
        chunk = Boxes(boxes.faces[part], boxes.crops[part], boxes.valid[part])
        silent = [i - part.start for i in opened if part.start <= i < part.stop]
        tensors = _make_chunk(number, chunk, silent, recipe, staging, meter, progress)
        staging.save(STAGE, number, tensors)


def _make_chunk(
    number: int,
    boxes: Boxes,
    opened: Sequence[int],
    recipe: Recipe,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> dict[str, NDArray[Any]]:
    files = analysis.load_files(staging, number)
    faces = analysis.load_faces(staging, number)
    step = min(recipe.batch_size, _MAX_BATCH)
    latents: list[NDArray[np.float16]] = []
    masks: list[NDArray[np.uint8]] = []
    for at in range(0, len(files), step):
        part = slice(at, at + step)
        with meter.stage("read", len(files[part])):
            frames = [_decoded(file) for file in files[part]]
        here, crops = boxes.faces[part], boxes.crops[part]
        with meter.stage("mask", len(frames)):
            first = number * analysis.CHUNK_FRAMES + at
            masks += recipe.masker.masks(first, frames, here, crops, faces[part])
        with meter.stage("latents", len(frames)):
            latents.append(preparation.encode_latents(frames, here, recipe.encoder, step))
        progress.advance(len(frames))
    tensors = _tensors(boxes, masks, np.concatenate(latents))
    pixels, pixel_offsets = cache.pack(files)
    whole = {**tensors, "pixels": pixels, "pixel_offsets": pixel_offsets}
    return {**tensors, **_idle(whole, opened, recipe, meter)}


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


def _idle(
    tensors: dict[str, NDArray[Any]], opened: Sequence[int], recipe: Recipe, meter: Meter
) -> dict[str, NDArray[Any]]:
    valid = tensors["valid"]
    indices = [i for i in opened if valid[i]]
    files = [np.zeros(0, np.uint8) for _ in valid]
    if indices:
        invalid = [int(i) for i in np.flatnonzero(valid == 0)]
        part = cache.Avatar("chunk", recipe.manifest(invalid, len(valid)), "", tensors)
        with meter.stage("idle", len(indices)):
            for at in range(0, len(indices), _MAX_BATCH):
                some = indices[at : at + _MAX_BATCH]
                for i, frame in zip(some, recipe.drawer(part, some), strict=True):
                    files[i] = preparation.picture_file(frame, recipe.pixels)
    flat, offsets = cache.pack(files)
    return {"idle_pixels": flat, "idle_offsets": offsets}


def _inside(mask: NDArray[np.uint8], face: Box, crop: Box) -> NDArray[np.uint8]:
    box = face.relative_to(crop)
    return mask[box.y1 : box.y2, box.x1 : box.x2]


def _decoded(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.array(file), cv2.IMREAD_COLOR), np.uint8)


def _rows(boxes: Sequence[Box]) -> NDArray[np.int32]:
    return np.array([[b.x1, b.y1, b.x2, b.y2] for b in boxes], np.int32)
