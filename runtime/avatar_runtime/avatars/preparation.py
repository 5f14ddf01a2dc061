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
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BATCH: Final = 8
"""Frames that the encoder gets at once."""
VERSION_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "v1": {"extra_margin": 0, "mask_mode": "raw"},
    "v15": {"extra_margin": geometry.EXTRA_MARGIN, "mask_mode": "jaw"},
}
"""Fields of the manifest in which the versions of MuseTalk differ."""
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
    pixels: str = "jpeg",
    valid: Sequence[bool] | None = None,
    **fields: Any,
) -> tuple[cache.Manifest, dict[str, NDArray[Any]]]:
    """Return what `cache.write` stores; every picture is held in memory.

    `frames` are `(h, w, 3) uint8` BGR of one size; `masks` are in the size of each crop box
    (`geometry.crop_box`), as `masks.feathered` makes them. Latents are made from the frames as
    they will be decoded, so that the reference is what the viewer sees. `valid` and `fields` are
    those of `assemble` and `describe`.
    """
    height, width = frames[0].shape[:2]
    files = [picture_file(frame, pixels) for frame in frames]
    decoded = [np.asarray(cv2.imdecode(f, cv2.IMREAD_COLOR), np.uint8) for f in files]
    tensors = assemble(files, boxes, masks, encode_latents(decoded, boxes, encoder), valid)
    invalid = tuple(int(i) for i in np.flatnonzero(tensors["valid"] == 0))
    size = {"frames": len(frames), "width": width, "height": height}
    return describe(encoder, **size, pixels=pixels, invalid_frames=invalid, **fields), tensors


def encode_latents(
    frames: Iterable[NDArray[np.uint8]],
    boxes: Iterable[geometry.Box],
    encoder: Encoder,
    batch: int = BATCH,
) -> NDArray[np.float16]:
    """Return the latents of frames as the cache stores them, `(n, 8, s, s)`.

    `frames` are `(h, w, 3) uint8` BGR, decoded from the pictures that are stored. The encoder
    gets `2 * batch` crops at once. The last digits of a latent may depend on the frames it is
    encoded with: encode the same groups of frames to get the same bytes.
    """
    made: list[NDArray[np.float16]] = []
    crops: list[NDArray[np.float32]] = []
    for frame, box in zip(frames, boxes, strict=True):
        crops += _masked_and_whole(frame, box, encoder.crop_size)
        if len(crops) == 2 * batch:
            made.append(_encoded(crops, encoder))
            crops = []
    if crops:
        made.append(_encoded(crops, encoder))
    return np.concatenate(made)


def assemble(
    files: Sequence[NDArray[np.uint8]],
    boxes: Sequence[geometry.Box],
    masks: Sequence[NDArray[np.uint8]],
    latents: NDArray[np.float16],
    valid: Sequence[bool] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the tensors of an avatar.

    `files` are the pictures as `picture_file` makes them, `latents` are `(n, 8, s, s)`. A frame
    that is not `valid` has no face and is shown as it is; `None`: every frame has a face.
    """
    flat_masks, mask_offsets = cache.pack(list(masks))
    flat_files, pixel_offsets = cache.pack(list(files))
    return {
        "latents": latents.astype(np.float16, copy=False),
        "boxes": _rows(boxes),
        "crop_boxes": _rows([geometry.crop_box(box) for box in boxes]),
        "masks": flat_masks,
        "mask_offsets": mask_offsets,
        "valid": np.array([True] * len(boxes) if valid is None else valid, np.uint8),
        "pixels": flat_files,
        "pixel_offsets": pixel_offsets,
    }


def describe(encoder: Encoder, **fields: Any) -> cache.Manifest:
    """Return the manifest of an avatar; `fields` are fields of `cache.Manifest`.

    The margin and the mask mode default to those of the model's version, the frame rate to 25 a
    second. `bbox_shift` is 0 unless the version is `v1`, which alone uses it. `tools` are added
    to the versions of the libraries that are always named.
    """
    tools = {name: version(name) for name in ("numpy", "opencv-python-headless", "torch")}
    defaults = {"fps": 25, **VERSION_FIELDS[encoder.version]}
    if encoder.version != "v1":
        fields["bbox_shift"] = 0
    return cache.Manifest(
        model_version=encoder.version,
        vae_hash=encoder.vae_hash,
        crop_size=encoder.crop_size,
        **{**defaults, **fields, "tools": tools | dict(fields.get("tools", {}))},
    )


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


def picture_file(frame: NDArray[np.uint8], pixels: str) -> NDArray[np.uint8]:
    """Return a frame `(h, w, 3) uint8` BGR as a file of the cache; `pixels` is `jpeg` or `png`."""
    if pixels == "png":
        return np.asarray(cv2.imencode(".png", frame)[1], np.uint8)
    options = [
        cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    return np.asarray(cv2.imencode(".jpg", frame, options)[1], np.uint8)


def _masked_and_whole(
    frame: NDArray[np.uint8], box: geometry.Box, size: int
) -> list[NDArray[np.float32]]:
    whole = crop(frame, box, size)
    masked = whole.copy()
    # Zero before normalising to [-1, 1]: the hole is -1, as in training (docs/musetalk.md).
    masked[:, size // 2 :] = 0
    return [masked, whole]


def _encoded(crops: list[NDArray[np.float32]], encoder: Encoder) -> NDArray[np.float16]:
    latents = encoder.encode(np.stack(crops) * 2 - 1)
    pairs = latents.reshape(len(crops) // 2, -1, *latents.shape[2:])
    return np.asarray(pairs, np.float16)


def _rows(boxes: Sequence[geometry.Box]) -> NDArray[np.int32]:
    return np.array([[b.x1, b.y1, b.x2, b.y2] for b in boxes], np.int32)
