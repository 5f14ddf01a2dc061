"""OCI archives: written so that equal images are equal files, and read for their layers.

The layout is that of the OCI image specification, "Image Layout".
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REFERENCE: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"
"""containerd imports an image under this name."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the digest of its content, and the bytes of the files that it unpacks to."""

    digest: str
    unpacked_bytes: int


def full_name(name: str) -> str:
    """Return the name that a kubelet asks its runtime for: the default registry is filled in."""
    host, slash, _ = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def write(layout: Path, target: Path, name: str, epoch_s: int) -> None:
    """Pack an image layout with one image under a name like `avatar-musetalk/operator:0.1.0`."""
    index = json.loads((layout / "index.json").read_text())
    (manifest,) = index["manifests"]
    manifest["annotations"] = {
        REFERENCE: name.rpartition(":")[2],
        CONTAINERD_NAME: full_name(name),
    }
    partial = target.with_name(f".{target.name}.partial")
    with tarfile.open(partial, "w") as tar:
        _add(tar, "index.json", io.BytesIO(json.dumps(index).encode()), epoch_s)
        for file in sorted(layout.rglob("*")):
            path = str(file.relative_to(layout))
            if file.is_dir():
                # syft unpacks the archive and makes no folders that are not in it.
                entry = tarfile.TarInfo(path)
                entry.type, entry.mtime, entry.mode = tarfile.DIRTYPE, epoch_s, 0o755
                tar.addfile(entry)
            elif path != "index.json":
                with file.open("rb") as content:
                    _add(tar, path, content, epoch_s)
    partial.rename(target)


def _add(tar: tarfile.TarFile, path: str, content: Any, epoch_s: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mtime, entry.mode = content.seek(0, io.SEEK_END), epoch_s, 0o644
    content.seek(0)
    tar.addfile(entry, content)


def reference(archive: Path) -> str:
    """Return the full name of the image."""
    with tarfile.open(archive) as tar:
        name: str = _index_entry(tar)["annotations"][CONTAINERD_NAME]
        return name


def manifest_digest(archive: Path) -> str:
    """Return the digest of the image, as registries and kubelets name it."""
    with tarfile.open(archive) as tar:
        digest: str = _index_entry(tar)["digest"]
        return digest


def configuration(archive: Path) -> dict[str, Any]:
    """Return the configuration of the image: `config`, `rootfs`, `history`."""
    with tarfile.open(archive) as tar:
        found: dict[str, Any] = _blob(tar, _manifest(tar)["config"]["digest"])
        return found


def layers(archive: Path) -> tuple[Layer, ...]:
    """Return the layers of the image from the base up."""
    with tarfile.open(archive) as tar:
        found = []
        for entry in _manifest(tar)["layers"]:
            with _open(tar, entry["digest"]) as content, tarfile.open(fileobj=content) as layer:
                found.append(Layer(entry["digest"], sum(member.size for member in layer)))
        return tuple(found)


def members(archive: Path, layer: int) -> Iterator[tarfile.TarInfo]:
    """Yield the files of one layer, counted from the base."""
    with tarfile.open(archive) as tar:
        digest = _manifest(tar)["layers"][layer]["digest"]
        with _open(tar, digest) as content, tarfile.open(fileobj=content) as files:
            yield from files


def _manifest(tar: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any] = _blob(tar, _index_entry(tar)["digest"])
    return found


def _index_entry(tar: tarfile.TarFile) -> dict[str, Any]:
    entry: dict[str, Any] = json.load(_open_file(tar, "index.json"))["manifests"][0]
    return entry


def _blob(tar: tarfile.TarFile, digest: str) -> Any:
    with _open(tar, digest) as content:
        return json.load(content)


def _open(tar: tarfile.TarFile, digest: str) -> Any:
    return _open_file(tar, f"blobs/{digest.replace(':', '/')}")


def _open_file(tar: tarfile.TarFile, name: str) -> Any:
    content = tar.extractfile(name)
    assert content is not None
    return content
