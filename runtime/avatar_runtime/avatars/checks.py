"""Checks of the tensors of an avatar: each fault names the frame, its value and the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.avatars import mapped_memory, pictures
from avatar_runtime.avatars.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from avatar_runtime.avatars.manifest import Manifest

    Shape = tuple[int | None, ...]
    Layout = Mapping[str, tuple[str, Shape]]

AVATAR_TENSORS: Final = ("latents", "boxes", "crop_boxes", "masks", "mask_offsets", "valid")
"""Tensors of `avatar.safetensors`."""
PIXEL_TENSORS: Final = ("pixels", "pixel_offsets")
"""Tensors of `pixels.safetensors`."""
IDLE_TENSORS: Final = ("idle_pixels", "idle_offsets")
"""Optional tensors of `pixels.safetensors`; both or none."""
ALPHA_TENSORS: Final = ("alpha_pixels", "alpha_offsets")
"""Optional tensors of `pixels.safetensors`; both or none: a PNG file in grey for each frame."""
_OPTIONAL: Final = (IDLE_TENSORS, ALPHA_TENSORS)
MAX_TENSOR_BYTES: Final = 16 << 30
"""Bytes of one tensor at most. A 1080p frame takes about 0.7 MB."""
_LATENT_CHANNELS: Final = 8  # masked latent and reference latent
_MAX_COORDINATE: Final = 1 << 15
_RELEASED_FRAMES: Final = 50
"""Frames of a mapped file whose pages are resident at once."""
_MAX_SCALE: Final = 32  # pixels of the crop for each latent; 8 in the published VAE


def layout(manifest: Manifest) -> Layout:
    """Return the type and the shape of each tensor by name; `None` is any length."""
    n = manifest.frames
    return {
        "latents": ("float16", (n, _LATENT_CHANNELS, None, None)),
        "boxes": ("int32", (n, 4)),
        "crop_boxes": ("int32", (n, 4)),
        "masks": ("uint8", (None,)),
        "mask_offsets": ("int64", (n + 1,)),
        "valid": ("uint8", (n,)),
        "pixels": ("uint8", (None,)),
        "pixel_offsets": ("int64", (n + 1,)),
        "idle_pixels": ("uint8", (None,)),
        "idle_offsets": ("int64", (n + 1,)),
        "alpha_pixels": ("uint8", (None,)),
        "alpha_offsets": ("int64", (n + 1,)),
    }


def check_layout(manifest: Manifest, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check the names, types and shapes of tensors, before they are read.

    `found` has the name of the NumPy type and the shape of each tensor.

    Raises:
        ValueError: a tensor is missing, unknown, or has another type or shape.
    """
    expected = layout(manifest)
    if unknown := sorted(found.keys() - expected.keys()):
        raise ValueError(f"tensor {unknown[0][:64]!r} is unknown")
    optional = [n for names in _OPTIONAL if any(n in found for n in names) for n in names]
    for name in (*AVATAR_TENSORS, *PIXEL_TENSORS, *optional):
        if name not in found:
            raise ValueError(f"tensor {name} is missing")
        dtype, shape = expected[name]
        if found[name][0] != dtype:
            raise ValueError(f"tensor {name} is {found[name][0]}, must be {dtype}")
        _check_shape(name, shape, found[name][1])
    _check_latent_side(manifest, found["latents"][1])


def check(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check the tensors of an avatar wholly. Pictures are not decoded, only their headers read.

    Raises:
        ValueError: a value is wrong; names the frame, the value and the limit.
    """
    check_layout(manifest, {k: (str(v.dtype), v.shape) for k, v in tensors.items()})
    _check_latents(tensors["latents"])
    _check_valid(manifest, tensors["valid"])
    _check_offsets("mask", tensors["mask_offsets"], tensors["masks"].size)
    _check_offsets("pixel", tensors["pixel_offsets"], tensors["pixels"].size)
    for index in range(manifest.frames):
        if index % _RELEASED_FRAMES == 0:
            mapped_memory.release(tensors.values())
        try:
            _check_frame(manifest, tensors, index)
        except ValueError as error:
            raise ValueError(f"frame {index}: {error}") from error
    for name in ("idle", "alpha"):
        if f"{name}_offsets" in tensors:
            _check_offsets(name, tensors[f"{name}_offsets"], tensors[f"{name}_pixels"].size)
    _check_pictures(manifest, tensors)
    mapped_memory.release(tensors.values())


def _check_shape(name: str, expected: Shape, found: tuple[int, ...]) -> None:
    right = len(found) == len(expected) and all(
        want is None or want == length for want, length in zip(expected, found, strict=True)
    )
    if not right:
        if len(found) == 1 == len(expected):
            raise ValueError(f"tensor {name} has {found[0]} entries, must have {expected[0]}")
        want = " x ".join("any" if length is None else str(length) for length in expected)
        has = " x ".join(map(str, found)) or "a single number"
        raise ValueError(f"tensor {name} has the shape {has}, must have {want}")


def _check_latent_side(manifest: Manifest, shape: tuple[int, ...]) -> None:
    height, width = shape[2:]
    sides = [manifest.crop_size // scale for scale in (1, 2, 4, 8, 16, _MAX_SCALE)]
    if height != width or width not in sides or manifest.crop_size % width:
        raise ValueError(
            f"tensor latents has {height} x {width} latents a frame, must have a square whose side "
            f"is crop_size {manifest.crop_size} divided by a power of 2 up to {_MAX_SCALE}"
        )


def _check_latents(latents: NDArray[np.float16]) -> None:
    for index, frame in enumerate(latents):
        if index % _RELEASED_FRAMES == 0:
            mapped_memory.release([latents])
        # The sum of float16 values in float32 is finite exactly if each of them is. The sum of two
        # infinite values of opposite signs is invalid, and that is no warning of ours.
        with np.errstate(invalid="ignore"):
            total = frame.sum(dtype=np.float32)
        if not np.isfinite(total):
            wrong = frame[~np.isfinite(frame)][0]
            raise ValueError(f"frame {index}: a latent is {wrong}, must be a finite number")


def _check_valid(manifest: Manifest, valid: NDArray[np.uint8]) -> None:
    wrong = np.flatnonzero(valid > 1)
    if wrong.size:
        raise ValueError(f"frame {wrong[0]}: valid is {valid[wrong[0]]}, must be 0 or 1")
    invalid = set(np.flatnonzero(valid == 0).tolist())
    if differing := invalid ^ set(manifest.invalid_frames):
        index = min(differing)
        stated = "contain" if index in manifest.invalid_frames else "do not contain"
        raise ValueError(
            f"frame {index}: valid is {valid[index]}, but invalid_frames {stated} the frame"
        )
    if len(invalid) == manifest.frames:
        raise ValueError(f"all {manifest.frames} frames are invalid, at least 1 must have a face")


def _check_offsets(name: str, offsets: NDArray[np.int64], size: int) -> None:
    if offsets[0] != 0:
        raise ValueError(f"{name}_offsets starts at {offsets[0]}, must start at 0")
    steps = np.flatnonzero(offsets[1:] < offsets[:-1])
    if steps.size:
        i = int(steps[0])
        fault = f"{name}_offsets decreases from {offsets[i]} to {offsets[i + 1]}"
        raise ValueError(f"frame {i}: {fault}")
    if offsets[-1] != size:
        raise ValueError(f"{name}_offsets ends at {offsets[-1]}, the data has {size} bytes")


def _check_frame(manifest: Manifest, tensors: Mapping[str, NDArray[Any]], index: int) -> None:
    """Check boxes and mask of a frame; those of a frame without a face may be empty."""
    box = _box("face box", tensors["boxes"][index])
    crop = _box("crop box", tensors["crop_boxes"][index])
    begin, end = (int(offset) for offset in tensors["mask_offsets"][index : index + 2])
    pixels = max(crop.width, 0) * max(crop.height, 0)
    if end - begin != pixels:
        size = f"the crop box {crop.width}x{crop.height} needs {pixels}"
        raise ValueError(f"the blend mask has {end - begin} bytes, {size}")
    if not tensors["valid"][index]:
        return
    _check_boxes(manifest, box, crop)
    mask = tensors["masks"][begin:end].reshape(crop.height, crop.width)
    inside = box.relative_to(crop)
    if not mask[inside.y1 : inside.y2, inside.x1 : inside.x2].any():
        raise ValueError("the blend mask is empty inside the face box, must have a pixel over 0")


def _check_boxes(manifest: Manifest, box: Box, crop: Box) -> None:
    if not box.fits(manifest.width, manifest.height):
        size = f"{manifest.width}x{manifest.height}"
        raise ValueError(f"the face box is {_corners(box)}, must lie inside {size}")
    is_clamped = manifest.schema == 1 and crop.fits(manifest.width, manifest.height)
    if crop.width != crop.height and not is_clamped:
        raise ValueError(f"the crop box is {crop.width}x{crop.height}, must be square")
    inside = box.relative_to(crop)
    if not inside.fits(crop.width, crop.height):
        raise ValueError(f"the crop box {_corners(crop)} does not contain the face box")


def _box(name: str, row: NDArray[np.int32]) -> Box:
    box = Box(*map(int, row))
    if any(abs(value) > _MAX_COORDINATE for value in (box.x1, box.y1, box.x2, box.y2)):
        limit = f"from -{_MAX_COORDINATE} to {_MAX_COORDINATE}"
        raise ValueError(f"the {name} is {_corners(box)}, coordinates must be {limit}")
    return box


def _check_pictures(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> None:
    for prefix, noun in (("pixel", "picture"), ("idle", "idle picture"), ("alpha", "alpha")):
        kind = "png" if prefix == "alpha" else manifest.pixels
        offsets = tensors.get(f"{prefix}_offsets")
        if offsets is None:
            continue
        data = tensors["pixels" if prefix == "pixel" else f"{prefix}_pixels"]
        for index in range(manifest.frames):
            if index % _RELEASED_FRAMES == 0:
                mapped_memory.release([data])
            file = data[offsets[index] : offsets[index + 1]]
            if prefix == "idle" and not file.size:
                continue
            try:
                pictures.check(file, kind, manifest.width, manifest.height)
            except ValueError as error:
                raise ValueError(f"frame {index}: the {noun} {error}") from error


def _corners(box: Box) -> list[int]:
    return [box.x1, box.y1, box.x2, box.y2]
