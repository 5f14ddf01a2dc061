"""OCI archives: equal images are equal files, under the name that a kubelet asks for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from localcluster.images import archive

if TYPE_CHECKING:
    from pathlib import Path


def blob(layout: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    folder = layout / "blobs/sha256"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / digest).write_bytes(content)
    return f"sha256:{digest}"


def layer(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Give an image layout of two layers, as buildah writes it."""
    folder = tmp_path / "layout"
    layers = [blob(folder, layer({"etc/base": b"abc"})), blob(folder, layer({"opt/own": b"12345"}))]
    configuration = blob(folder, json.dumps({"config": {"User": "65532:65532"}}).encode())
    manifest = {"config": {"digest": configuration}, "layers": [{"digest": x} for x in layers]}
    index = {"manifests": [{"digest": blob(folder, json.dumps(manifest).encode())}]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def test_layers_configuration_and_name_are_read_back(layout: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.tar"
    archive.write(layout, image, "avatar-musetalk/operator:1.2.3", 1)
    assert [found.unpacked_bytes for found in archive.layers(image)] == [3, 5]
    assert [member.name for member in archive.members(image, 1)] == ["opt/own"]
    assert archive.configuration(image)["config"] == {"User": "65532:65532"}
    assert archive.reference(image) == "docker.io/avatar-musetalk/operator:1.2.3"
    assert archive.manifest_digest(image).startswith("sha256:")


def test_times_of_the_layout_do_not_change_the_archive(layout: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    archive.write(layout, first, "a/b:1", 1)
    for file in layout.rglob("*"):
        os.utime(file, (5, 5))
    archive.write(layout, second, "a/b:1", 1)
    assert first.read_bytes() == second.read_bytes()


def test_folders_are_entries_before_their_files(layout: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.tar"
    archive.write(layout, image, "a/b:1", 1)
    with tarfile.open(image) as tar:
        names = tar.getnames()
    for number, name in enumerate(names):
        folder = name.rpartition("/")[0]
        assert not folder or folder in names[:number]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("avatar-musetalk/operator:1", "docker.io/avatar-musetalk/operator:1"),
        ("operator:1", "docker.io/library/operator:1"),
        ("registry.example.com/a/b:1", "registry.example.com/a/b:1"),
        ("registry:5000/b:1", "registry:5000/b:1"),
        ("localhost/b:1", "localhost/b:1"),
    ],
)
def test_default_registry_is_filled_in(name: str, full: str) -> None:
    assert archive.full_name(name) == full
