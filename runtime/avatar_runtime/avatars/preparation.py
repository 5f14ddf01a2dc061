"""Makes an avatar from frames whose face boxes and masks are already known.

Finding them (pose and face parsing) is another task; everything after it is here, in a fixed
order and without random numbers, so that equal input gives equal bytes.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol

import cv2
import numpy as np

from avatar_runtime.avatars import cache, geometry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_JPEG_QUALITY: Final = 95


class Encoder(Protocol):
    """The part of a model that turns crops into latents."""

    @property
    def version(self) -> str: ...

    @property
    def vae_hash(self) -> str: ...

    @property
    def crop_size(self) -> int: ...

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled latents `(n, 4, s, s)` of RGB crops `(n, 3, c, c)` in [-1, 1]."""
        ...


def prepare(
    frames: Sequence[NDArray[np.uint8]],
    boxes: Sequence[geometry.Box],
    masks: Sequence[NDArray[np.uint8]],
    encoder: Encoder,
    *,
    fps: int = 25,
    mask_mode: str = "jaw",
    pixels: str = "jpeg",
) -> tuple[cache.Manifest, dict[str, NDArray[Any]]]:
    """Return what `cache.write` stores.

    `frames` are `(h, w, 3) uint8` BGR of one size; `masks` are in the size of each crop box
    (`geometry.crop_box`), as `masks.feathered` makes them. Latents are made from the frames as
    they will be decoded, so that the reference is what the viewer sees.
    """
    height, width = frames[0].shape[:2]
    files = [_file(frame, pixels) for frame in frames]
    decoded = [np.asarray(cv2.imdecode(f, cv2.IMREAD_COLOR), np.uint8) for f in files]
    latents = [_latents(frame, box, encoder) for frame, box in zip(decoded, boxes, strict=True)]
    flat_masks, mask_offsets = cache.pack(list(masks))
    flat_files, pixel_offsets = cache.pack(files)
    crops = [geometry.crop_box(box) for box in boxes]
    manifest = cache.Manifest(
        model_version=encoder.version,
        vae_hash=encoder.vae_hash,
        fps=fps,
        width=width,
        height=height,
        frames=len(frames),
        crop_size=encoder.crop_size,
        mask_mode=mask_mode,
        pixels=pixels,
        tools={name: version(name) for name in ("numpy", "opencv-python-headless", "torch")},
    )
    return manifest, {
        "latents": np.stack(latents).astype(np.float16),
        "boxes": _rows(boxes),
        "crop_boxes": _rows(crops),
        "masks": flat_masks,
        "mask_offsets": mask_offsets,
        "valid": np.ones(len(frames), np.uint8),
        "pixels": flat_files,
        "pixel_offsets": pixel_offsets,
    }


def write(
    folder: Path,
    frames: Sequence[NDArray[np.uint8]],
    boxes: Sequence[geometry.Box],
    masks: Sequence[NDArray[np.uint8]],
    encoder: Encoder,
    **options: Any,
) -> str:
    """Prepare an avatar, write its folder and return the content hash."""
    manifest, tensors = prepare(frames, boxes, masks, encoder, **options)
    return cache.write(folder, manifest, tensors)


def crop(frame: NDArray[np.uint8], box: geometry.Box, size: int) -> NDArray[np.float32]:
    """Return the face as the VAE takes it: `(3, size, size) float32` RGB in [0, 1]."""
    face = frame[box.y1 : box.y2, box.x1 : box.x2]
    square = cv2.resize(face, (size, size), interpolation=cv2.INTER_LANCZOS4)
    rgb = cv2.cvtColor(square, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) / np.float32(255)


def _latents(frame: NDArray[np.uint8], box: geometry.Box, encoder: Encoder) -> NDArray[np.float32]:
    whole = crop(frame, box, encoder.crop_size)
    masked = whole.copy()
    # Zero before normalising to [-1, 1]: the hole is -1, as in training (docs/musetalk.md).
    masked[:, encoder.crop_size // 2 :] = 0
    return np.concatenate(encoder.encode(np.stack([masked, whole]) * 2 - 1))


def _file(frame: NDArray[np.uint8], pixels: str) -> NDArray[np.uint8]:
    if pixels == "png":
        return np.asarray(cv2.imencode(".png", frame)[1], np.uint8)
    options = [
        cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    return np.asarray(cv2.imencode(".jpg", frame, options)[1], np.uint8)


def _rows(boxes: Sequence[geometry.Box]) -> NDArray[np.int32]:
    return np.array([[b.x1, b.y1, b.x2, b.y2] for b in boxes], np.int32)
