"""Prepared avatars on disk: read, checked and written (one folder each, JSON and safetensors).

The folder stores each source frame once; `fold` maps a timeline that plays forward and back to
them. Frames are stored as JPEG or PNG files in one byte tensor: decoded they are the source
pixels, which the composition does not change outside the blend mask.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from safetensors.numpy import save_file

from avatar_runtime import errors
from avatar_runtime.avatars import backdrops, checks, mapped_memory, masks, tensor_files
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.avatars.manifest import SCHEMA, AvatarInfo, Manifest
from avatar_runtime.avatars.manifest import check as check_manifest
from avatar_runtime.avatars.manifest import read as read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["SCHEMA", "Avatar", "AvatarInfo", "Manifest"]

MAX_AVATARS: Final = 1000
"""Avatars that are read from one folder at most."""
_NAME: Final = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,252}")
_DECODED_BYTES: Final = 128 << 20  # of decoded frames that an avatar caches
_HASHED_BYTES: Final = 16 << 20  # of a mapped file that are resident while it is hashed


def fold(position: int, frames: int) -> int:
    """Return the stored frame at a position of an endless timeline that plays forward and back.

    The first and the last frame are shown twice in a row.
    """
    p = position % (2 * frames)
    return p if p < frames else 2 * frames - 1 - p


class Avatar:
    """One prepared avatar in memory; its frames are decoded on demand."""

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        content_hash: str,
        tensors: Mapping[str, Any],
        *,
        decoded_bytes: int = _DECODED_BYTES,
    ) -> None:
        """`decoded_bytes` bounds the decoded frames that stay in memory; the last one always does.

        Frames that are each used once need none: the preparation keeps no others.
        """
        self.name = name
        self.manifest = manifest
        self.info = AvatarInfo(
            name,
            manifest.width,
            manifest.height,
            manifest.fps,
            manifest.frames,
            content_hash,
            manifest.disclosure,
            has_alpha="alpha_pixels" in tensors,
        )
        self.latents: NDArray[np.float16] = tensors["latents"]
        """`(n, 8, s, s) float16`: masked latent, then reference latent."""
        self._boxes = [Box(*map(int, row)) for row in tensors["boxes"]]
        self._crops = [Box(*map(int, row)) for row in tensors["crop_boxes"]]
        self._masks, self._mask_offsets = tensors["masks"], tensors["mask_offsets"]
        self._pixels, self._pixel_offsets = tensors["pixels"], tensors["pixel_offsets"]
        self._idle_pixels = tensors.get("idle_pixels")
        self._idle_offsets = tensors.get("idle_offsets")
        self._alpha_pixels = tensors.get("alpha_pixels")
        self._alpha_offsets = tensors.get("alpha_offsets")
        self._valid = tensors["valid"]
        self._blended: dict[int, Box] = {}
        frame_bytes = 3 * manifest.width * manifest.height
        cached = functools.lru_cache(max(1, decoded_bytes // frame_bytes))
        self._decoded: Callable[[int], NDArray[np.uint8]] = cached(self._decode_read_only)

    @property
    def backdrop(self) -> backdrops.Colour:
        """Blue, green and red of what the stored pictures show behind the avatar."""
        return backdrops.parse(self.manifest.background)

    def alpha(self, index: int) -> NDArray[np.uint8]:
        """Return how opaque the pixels of a stored frame are, `(height, width) uint8`, 0 to 255.

        Raises:
            AssetError: the file cannot be decoded, or the avatar has none.
        """
        mask = None
        if self._alpha_pixels is not None and self._alpha_offsets is not None:
            begin, end = self._alpha_offsets[index : index + 2]
            mask = cv2.imdecode(self._alpha_pixels[begin:end], cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise errors.AssetError(self.name, f"frame {index}: the alpha cannot be decoded")
        return np.asarray(mask, np.uint8)

    @property
    def face_resize(self) -> str:
        """How the generated face is resized to the face box: `bilinear` or `lanczos`."""
        return self.manifest.face_resize

    def release(self) -> None:
        """Give back the memory of tensors that are mapped from files."""
        stored = (
            self.latents,
            self._masks,
            self._pixels,
            self._idle_pixels,
            self._alpha_pixels,
        )
        mapped_memory.release(tensor for tensor in stored if tensor is not None)

    def valid(self, index: int) -> bool:
        """Whether a stored frame has a face; without one its source picture is shown.

        The boxes and the mask of a frame without a face have no meaning and may be empty.
        """
        return bool(self._valid[index])

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

    def blended(self, index: int) -> Box:
        """Return the part of a stored frame that speech can change, in pixels of the frame.

        It is the bounding box of the blend mask, which is empty without a face.
        """
        if index not in self._blended:
            box, inner = Box(0, 0, 0, 0), Box(0, 0, 0, 0)
            if self.valid(index):
                box, inner = self.box(index), masks.bounding_box(self.mask(index))
            self._blended[index] = inner.relative_to(Box(-box.x1, -box.y1, 0, 0))
        return self._blended[index]

    def file(self, index: int) -> NDArray[np.uint8]:
        """Return the JPEG or PNG file of a stored frame, `(bytes,) uint8`."""
        begin, end = self._pixel_offsets[index : index + 2]
        stored: NDArray[np.uint8] = self._pixels[begin:end]
        return stored

    def has_idle(self, index: int) -> bool:
        """Whether the preparation drew a picture with the mouth closed for a stored frame."""
        if self._idle_offsets is None or not self.valid(index):
            return False
        return bool(self._idle_offsets[index + 1] > self._idle_offsets[index])

    def idle_file(self, index: int) -> NDArray[np.uint8]:
        """Return the file of the picture that is shown in silence, `(bytes,) uint8`.

        It is the source picture, unless `has_idle`: then only the pixels under the blend mask
        are drawn, and `idle_pictures.decode` puts them into the source picture.
        """
        if self._idle_pixels is None or self._idle_offsets is None or not self.has_idle(index):
            return self.file(index)
        begin, end = self._idle_offsets[index : index + 2]
        drawn: NDArray[np.uint8] = self._idle_pixels[begin:end]
        return drawn

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Return a stored frame like `frame`, without caching it.

        Raises:
            AssetError: the file cannot be decoded; its header was checked when it was read.
        """
        image = cv2.imdecode(self.file(index), cv2.IMREAD_COLOR)
        if image is None:
            raise errors.AssetError(self.name, f"frame {index}: the picture cannot be decoded")
        return np.asarray(image, np.uint8)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return a stored frame, `(height, width, 3) uint8` BGR, read only."""
        return self._decoded(index)

    def _decode_read_only(self, index: int) -> NDArray[np.uint8]:
        image = self.decode(index)
        image.flags.writeable = False
        return image


def read(folder: Path) -> Avatar:
    """Read one avatar, check it wholly and verify its content hash.

    Raises:
        AssetError: the folder is unreadable or incomplete, a value in it is wrong, or it does not
            match its hash.
    """
    for name in ("manifest.json", *tensor_files.NAMES):
        tensor_files.check_file(folder, name)
    content_hash, manifest = read_manifest(folder)
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in tensor_files.NAMES:
        found |= tensor_files.read_layout(folder, name)
    tensors: dict[str, Any] = {}
    try:
        checks.check_layout(manifest, found)
        for name in tensor_files.NAMES:
            tensors |= tensor_files.load(folder, name)
        checks.check(manifest, tensors)
    except ValueError as error:
        raise errors.AssetError(str(folder), str(error)) from error
    if (computed := hash_content(manifest, tensors)) != content_hash:
        fault = f"content_hash is {content_hash}, the manifest and the tensors have {computed}"
        raise errors.AssetError(str(folder), fault)
    return Avatar(folder.name, manifest, content_hash, tensors)


def names(folder: Path) -> list[str]:
    """Return the names of the avatars of a folder, at most `MAX_AVATARS`, in their order.

    Folders whose name starts with a dot are not avatars: `write` uses them.
    """
    found = (path.parent.name for path in folder.glob("*/manifest.json"))
    return sorted(name for name in found if _NAME.fullmatch(name))[:MAX_AVATARS]


def read_all(
    folder: Path, selected: Sequence[str] | None = None
) -> tuple[dict[str, Avatar], dict[str, errors.AssetError]]:
    """Read the selected avatars, or all of the folder; return the usable ones and the faults.

    An unusable avatar does not prevent the others from being served.
    """
    usable: dict[str, Avatar] = {}
    faults: dict[str, errors.AssetError] = {}
    for name in names(folder) if selected is None else selected:
        try:
            usable[name] = read(folder / name)
        except errors.AssetError as fault:
            faults[name] = fault
    return usable, faults


def check_model(
    avatar: Avatar,
    folder: Path,
    *,
    model_version: str,
    vae_hash: str,
    latent_size: int | None = None,
) -> None:
    """Check that the served model prepared an avatar.

    `latent_size` is the side of the latents that the model takes; `None` does not check it.

    Raises:
        AssetError: another model prepared it; names both values.
    """
    served = {"model_version": model_version, "vae_hash": vae_hash}
    for key, value in served.items():
        found = getattr(avatar.manifest, key)
        if found != value:
            fault = f"{key} is {found}, the served model has {value}"
            raise errors.AssetError(str(folder), fault)
    side = avatar.latents.shape[-1]
    if latent_size is not None and side != latent_size:
        fault = (
            f"the latents are {side} x {side}, the served model has {latent_size} x {latent_size}"
        )
        raise errors.AssetError(str(folder), fault)


def write(folder: Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write the folder of an avatar with one rename and return its content hash.

    `tensors` are `checks.AVATAR_TENSORS`, `PIXEL_TENSORS`, and `IDLE_TENSORS` and `ALPHA_TENSORS`
    or none of these.
    A reader sees the old folder, the new one, or for a moment none, never a mixture.

    Raises:
        AssetError: a field or a tensor is wrong, so that `read` would refuse the avatar.
    """
    try:
        check_manifest(manifest)
        checks.check(manifest, tensors)
    except ValueError as error:
        raise errors.AssetError(str(folder), str(error)) from error
    content_hash = hash_content(manifest, tensors)
    document = json.dumps(
        {"content_hash": content_hash, **manifest.canonical()}, indent=2, sort_keys=True
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        plain = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        save_file({k: plain.pop(k) for k in checks.AVATAR_TENSORS}, staging / tensor_files.NAMES[0])
        save_file(plain, staging / tensor_files.NAMES[1])
        (staging / "manifest.json").write_text(document + "\n", encoding="utf-8")
        # mkdtemp and safetensors make files private; the serving pod runs as another user.
        staging.chmod(0o755)
        for path in staging.iterdir():
            path.chmod(0o644)
        replace(folder, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return content_hash


def hash_content(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the canonical manifest and every tensor, in name order."""
    digest = hashlib.sha256()
    canonical = json.dumps(
        manifest.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    digest.update(canonical.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{tensor.dtype.str}:{tensor.shape}".encode())
        content = tensor.reshape(-1).view(np.uint8)
        for at in range(0, content.size, _HASHED_BYTES):
            digest.update(content[at : at + _HASHED_BYTES].data)
            mapped_memory.release([tensor])
    return digest.hexdigest()


def pack(parts: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return byte arrays of different sizes as one flat tensor and its `(n + 1)` offsets."""
    offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
    return np.concatenate([part.ravel() for part in parts]), offsets


def replace(folder: Path, staging: Path) -> None:
    """Give a staged folder its name; the folder that has the name is removed."""
    if not folder.exists():
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.rename(old / folder.name)
        staging.rename(folder)
    finally:
        shutil.rmtree(old, ignore_errors=True)
