"""Prepared avatars on disk: read, checked and written (one folder each, JSON and safetensors).

The folder stores each source frame once; `fold` maps a timeline that plays forward and back to
them. Frames are stored as JPEG or PNG files in one byte tensor: decoded they are the source
pixels, which the composition does not change outside the blend mask.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from avatar_runtime import errors
from avatar_runtime.avatars.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

SCHEMA: Final = 1
PIXELS: Final = ("jpeg", "png")
_TENSORS: Final = ("latents", "boxes", "crop_boxes", "masks", "mask_offsets", "valid")
_DECODED_BYTES: Final = 128 << 20  # of decoded frames that an avatar caches


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The inputs and tools of an avatar; `manifest.json` without the content hash."""

    model_version: str
    """`v1` or `v15`: weights and face boxes differ."""
    vae_hash: str
    """Hash of the VAE that made the latents; must equal that of the served model."""
    fps: int
    width: int
    height: int
    frames: int
    crop_size: int
    """Side of the square that the model generates, pixels."""
    bbox_shift: int = 0
    extra_margin: int = 10
    mask_mode: str = "jaw"
    blur_ratio: float = 0.1
    upper_boundary_ratio: float = 0.5
    invalid_frames: tuple[int, ...] = ()
    pixels: str = "jpeg"
    """How the source frames are stored: `jpeg` or `png`, one file after the other."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that made the avatar."""
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class AvatarInfo:
    """What a session needs to know of an avatar."""

    name: str
    width: int
    height: int
    fps: int
    frames: int
    content_hash: str


def fold(position: int, frames: int) -> int:
    """Return the stored frame at a position of an endless timeline that plays forward and back.

    The first and the last frame are shown twice in a row.
    """
    p = position % (2 * frames)
    return p if p < frames else 2 * frames - 1 - p


class Avatar:
    """One prepared avatar in memory; its frames are decoded on demand."""

    def __init__(
        self, name: str, manifest: Manifest, content_hash: str, tensors: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.manifest = manifest
        self.info = AvatarInfo(
            name, manifest.width, manifest.height, manifest.fps, manifest.frames, content_hash
        )
        self.latents: NDArray[np.float16] = tensors["latents"]
        """`(n, 8, s, s) float16`: masked latent, then reference latent."""
        self._boxes = [Box(*map(int, row)) for row in tensors["boxes"]]
        self._crops = [Box(*map(int, row)) for row in tensors["crop_boxes"]]
        self._masks, self._mask_offsets = tensors["masks"], tensors["mask_offsets"]
        self._pixels, self._pixel_offsets = tensors["pixels"], tensors["pixel_offsets"]
        frame_bytes = 3 * manifest.width * manifest.height
        cached = functools.lru_cache(max(1, _DECODED_BYTES // frame_bytes))
        self._decoded: Callable[[int], NDArray[np.uint8]] = cached(self._decode_read_only)

    def box(self, index: int) -> Box:
        """Return the face box of a stored frame."""
        return self._boxes[index]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the blend mask of the face box, `(h, w) uint8`, 0 to 255."""
        crop = self._crops[index]
        flat = self._masks[self._mask_offsets[index] : self._mask_offsets[index + 1]]
        box = self._boxes[index].relative_to(crop)
        whole: NDArray[np.uint8] = flat.reshape(crop.height, crop.width)
        return whole[box.y1 : box.y2, box.x1 : box.x2]

    def file(self, index: int) -> NDArray[np.uint8]:
        """Return the JPEG or PNG file of a stored frame, `(bytes,) uint8`."""
        begin, end = self._pixel_offsets[index : index + 2]
        stored: NDArray[np.uint8] = self._pixels[begin:end]
        return stored

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Return a stored frame like `frame`, without caching it."""
        return np.asarray(cv2.imdecode(self.file(index), cv2.IMREAD_COLOR), np.uint8)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return a stored frame, `(height, width, 3) uint8` BGR, read only."""
        return self._decoded(index)

    def _decode_read_only(self, index: int) -> NDArray[np.uint8]:
        image = self.decode(index)
        image.flags.writeable = False
        return image


def read(folder: Path) -> Avatar:
    """Read one avatar and verify its content hash.

    Raises:
        AssetError: the folder is unreadable or incomplete, or does not match its hash.
    """
    content_hash, manifest = _read_manifest(folder)
    tensors: dict[str, Any] = {}
    for name in ("avatar.safetensors", "pixels.safetensors"):
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise errors.AssetError(str(folder), f"{name} is unreadable: {error}") from error
    _check_tensors(folder, manifest, tensors)
    if (found := hash_content(manifest, tensors)) != content_hash:
        fault = f"content_hash is {content_hash}, the manifest and the tensors have {found}"
        raise errors.AssetError(str(folder), fault)
    return Avatar(folder.name, manifest, content_hash, tensors)


def read_all(
    folder: Path, names: Sequence[str] | None = None
) -> tuple[dict[str, Avatar], dict[str, errors.AssetError]]:
    """Read the named avatars, or all of the folder; return the usable ones and the faults.

    An unusable avatar does not prevent the others from being served.
    """
    usable: dict[str, Avatar] = {}
    faults: dict[str, errors.AssetError] = {}
    if names is None:
        names = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    for name in names:
        try:
            usable[name] = read(folder / name)
        except errors.AssetError as fault:
            faults[name] = fault
    return usable, faults


def check_model(avatar: Avatar, folder: Path, *, model_version: str, vae_hash: str) -> None:
    """Check that the served model prepared an avatar.

    Raises:
        AssetError: another model prepared it; names both values.
    """
    served = {"model_version": model_version, "vae_hash": vae_hash}
    for key, value in served.items():
        found = getattr(avatar.manifest, key)
        if found != value:
            fault = f"{key} is {found}, the served model has {value}"
            raise errors.AssetError(str(folder), fault)


def write(folder: Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write the folder of an avatar with one rename and return its content hash.

    `tensors` are those of the class `Avatar`: `latents`, `boxes`, `crop_boxes`, `masks`,
    `mask_offsets`, `valid`, `pixels`, `pixel_offsets`.
    """
    _check_tensors(folder, manifest, tensors)
    content_hash = hash_content(manifest, tensors)
    document = json.dumps(
        {"content_hash": content_hash, **asdict(manifest)}, indent=2, sort_keys=True
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        plain = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        save_file({k: plain[k] for k in _TENSORS}, staging / "avatar.safetensors")
        pixels = {k: plain[k] for k in ("pixels", "pixel_offsets")}
        save_file(pixels, staging / "pixels.safetensors")
        (staging / "manifest.json").write_text(document + "\n", encoding="utf-8")
        # mkdtemp and safetensors make files private; the serving pod runs as another user.
        staging.chmod(0o755)
        for path in staging.iterdir():
            path.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return content_hash


def hash_content(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the canonical manifest and every tensor, in name order."""
    digest = hashlib.sha256()
    canonical = json.dumps(
        asdict(manifest), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    digest.update(canonical.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{tensor.dtype.str}:{tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest()


def pack(parts: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return byte arrays of different sizes as one flat tensor and its `(n + 1)` offsets."""
    offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
    return np.concatenate([part.ravel() for part in parts]), offsets


def _read_manifest(folder: Path) -> tuple[str, Manifest]:
    try:
        document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        content_hash = str(document.pop("content_hash"))
        document["invalid_frames"] = tuple(document.get("invalid_frames", ()))
        manifest = Manifest(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.AssetError(str(folder), f"manifest.json is unreadable: {error}") from error
    if manifest.schema != SCHEMA:
        fault = f"schema is {manifest.schema}, this runtime reads {SCHEMA}"
        raise errors.AssetError(str(folder), fault)
    if manifest.pixels not in PIXELS:
        fault = f"pixels is {manifest.pixels!r}, must be one of {', '.join(PIXELS)}"
        raise errors.AssetError(str(folder), fault)
    return content_hash, manifest


def _check_tensors(folder: Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> None:
    n = manifest.frames
    lengths = dict.fromkeys(_TENSORS, n) | {"mask_offsets": n + 1, "pixel_offsets": n + 1}
    faults = [f"tensor {name} is missing" for name in (*lengths, "pixels") if name not in tensors]
    faults += [
        f"tensor {name} has {len(tensors[name])} entries, must have {length}"
        for name, length in lengths.items()
        if name in tensors and name != "masks" and len(tensors[name]) != length
    ]
    if not faults:
        faults = [
            f"frame {i} has the face box {row.tolist()}, must lie inside "
            f"{manifest.width}x{manifest.height}"
            for i, row in enumerate(tensors["boxes"])
            if not Box(*map(int, row)).fits(manifest.width, manifest.height)
        ]
    if faults:
        raise errors.AssetError(str(folder), "; ".join(faults))
