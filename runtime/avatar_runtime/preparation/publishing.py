"""The last pass: joins the chunks to the files of an avatar, checks them, and renames the folder.

The tensors are copied from file to file and then mapped, so that the memory needed does not depend
on the length of the clip.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.avatars import cache, checks
from avatar_runtime.avatars import manifest as manifests
from avatar_runtime.preparation import alpha, analysis, closing, making, tensor_stream
from avatar_runtime.preparation.tensor_stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.preparation.staging import Staging

    MakeManifest = Callable[[Sequence[int], int], cache.Manifest]

REPORT: Final = "report.json"
PREVIEW: Final = "preview.jpg"
AVATAR_FILE: Final = "avatar.safetensors"
PIXELS_FILE: Final = "pixels.safetensors"
_FLAT: Final = {
    "masks": "mask_offsets",
    "pixels": "pixel_offsets",
    "idle_pixels": "idle_offsets",
    "alpha_pixels": "alpha_offsets",
}
_STAGES: Final = {
    **dict.fromkeys(checks.AVATAR_TENSORS, making.STAGE),
    **dict.fromkeys(checks.IDLE_TENSORS, closing.STAGE),
    **dict.fromkeys(checks.ALPHA_TENSORS, alpha.STAGE),
    **dict.fromkeys(checks.PIXEL_TENSORS, analysis.STAGE),
}


def join(staging: Staging, chunks: int, manifest: MakeManifest) -> tuple[Path, cache.Avatar]:
    """Write the tensors of all chunks into a folder inside the staging folder.

    Returns the folder and the avatar without idle pictures, whose tensors are mapped from the
    disk. Its content hash is empty.

    Raises:
        OSError: the disk is full.
    """
    folder = staging.folder / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write(staging, chunks, folder / AVATAR_FILE, checks.AVATAR_TENSORS)
    _write(staging, chunks, folder / PIXELS_FILE, checks.PIXEL_TENSORS)
    tensors = _mapped(folder)
    return folder, _avatar(_manifest(tensors, manifest), "", tensors)


def complete(
    staging: Staging,
    chunks: int,
    folder: Path,
    manifest: MakeManifest,
    *,
    has_idle: bool,
    has_alpha: bool = False,
) -> cache.Avatar:
    """Add the idle pictures, the alpha and the manifest; return the avatar as the runtime reads it.

    Raises:
        AssetError: a tensor is wrong, so that the runtime would refuse the avatar.
        OSError: the disk is full.
    """
    added = (checks.IDLE_TENSORS if has_idle else ()) + (checks.ALPHA_TENSORS if has_alpha else ())
    if added:
        names = (*checks.PIXEL_TENSORS, *added)
        _write(staging, chunks, folder / PIXELS_FILE, names)
    tensors = _mapped(folder)
    made = _manifest(tensors, manifest)
    try:
        manifests.check(made)
        checks.check(made, tensors)
    except ValueError as error:
        raise errors.AssetError(str(folder), str(error)) from error
    content_hash = cache.hash_content(made, tensors)
    document = {"content_hash": content_hash, **made.canonical()}
    (folder / "manifest.json").write_text(_json(document), encoding="utf-8")
    return _avatar(made, content_hash, tensors)


def _avatar(
    manifest: cache.Manifest, content_hash: str, tensors: Mapping[str, NDArray[Any]]
) -> cache.Avatar:
    # Each frame is drawn once: a cache of them would grow with the clip, to 128 MiB.
    return cache.Avatar("prepared", manifest, content_hash, tensors, decoded_bytes=0)


def publish(
    folder: Path, out: Path, report: Mapping[str, Any], preview: NDArray[np.uint8] | None
) -> None:
    """Add the report and the preview (a JPEG file) to a joined folder and rename it to `out`.

    Raises:
        OSError: the disk is full or `out` cannot be replaced.
    """
    (folder / REPORT).write_text(_json(report), encoding="utf-8")
    if preview is not None:
        (folder / PREVIEW).write_bytes(preview.tobytes())
    # Files are private if the umask says so; the serving pod runs as another user.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    cache.replace(out, folder)


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _write(staging: Staging, chunks: int, path: Path, names: Sequence[str]) -> None:
    offsets = {
        _FLAT[name]: _joined_offsets(staging, chunks, _FLAT[name])
        for name in names
        if name in _FLAT
    }
    streams = {name: _stream(staging, chunks, name, offsets) for name in names}
    tensor_stream.write(path, streams)


def _mapped(folder: Path) -> dict[str, NDArray[Any]]:
    return {
        **tensor_stream.mapped(folder / AVATAR_FILE),
        **tensor_stream.mapped(folder / PIXELS_FILE),
    }


def _manifest(tensors: Mapping[str, NDArray[Any]], manifest: MakeManifest) -> cache.Manifest:
    invalid = [int(i) for i in np.flatnonzero(tensors["valid"] == 0)]
    return manifest(invalid, len(tensors["valid"]))


def _stream(
    staging: Staging, chunks: int, name: str, offsets: Mapping[str, NDArray[np.int64]]
) -> Stream:
    if name in offsets:
        return Stream("int64", offsets[name].shape, [offsets[name]])
    if name in _FLAT:
        return Stream("uint8", (int(offsets[_FLAT[name]][-1]),), _parts(staging, chunks, name))
    first = _chunk(staging, 0, name)[name]
    frames = sum(len(part) for part in _parts(staging, chunks, name))
    return Stream(str(first.dtype), (frames, *first.shape[1:]), _parts(staging, chunks, name))


def _parts(staging: Staging, chunks: int, name: str) -> Iterator[NDArray[Any]]:
    for number in range(chunks):
        yield _chunk(staging, number, name)[name]


def _joined_offsets(staging: Staging, chunks: int, name: str) -> NDArray[np.int64]:
    sizes = [np.diff(_chunk(staging, number, name)[name]) for number in range(chunks)]
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)


def _chunk(staging: Staging, number: int, name: str) -> Mapping[str, NDArray[Any]]:
    chunk = staging.load(_STAGES[name], number)
    if chunk is None:
        fault = f"chunk {number} is missing; run the command again"
        raise errors.AssetError(str(staging.folder), fault, permanent=False)
    return chunk


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
