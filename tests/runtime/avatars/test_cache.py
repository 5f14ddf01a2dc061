"""Reading, checking and writing prepared avatars."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from avatar_runtime import errors
from avatar_runtime.avatars import cache, geometry, preparation

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_BOX = geometry.Box(10, 12, 40, 44)
_CROP = geometry.crop_box(_BOX)


@pytest.fixture
def folder(encoder: preparation.Encoder, tmp_path: Path) -> Path:
    frames = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(4)]
    mask = np.arange(_CROP.width * _CROP.height, dtype=np.uint64) % 251
    masks = [mask.astype(np.uint8).reshape(_CROP.height, _CROP.width)] * 4
    path = tmp_path / "anna"
    preparation.write(path, frames, [_BOX] * 4, masks, encoder, pixels="png")
    return path


def test_what_was_written_is_read(folder: Path) -> None:
    avatar = cache.read(folder)

    assert avatar.info.name == "anna"
    assert (avatar.info.width, avatar.info.height, avatar.info.frames) == (64, 64, 4)
    assert avatar.box(3) == _BOX
    assert avatar.mask(0).shape == (_BOX.height, _BOX.width)
    row, column = _BOX.y1 - _CROP.y1, _BOX.x1 - _CROP.x1
    assert avatar.mask(0)[0, 0] == (row * _CROP.width + column) % 251
    assert (avatar.frame(2) == 40).all()
    assert avatar.frame(2) is avatar.frame(2)


def test_frames_are_read_only(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        cache.read(folder).frame(0)[0, 0] = 1


def test_any_user_may_read_the_files(folder: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert modes == {0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_writing_again_replaces_and_leaves_nothing_behind(
    folder: Path, encoder: preparation.Encoder
) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    mask = np.full((_CROP.height, _CROP.width), 255, np.uint8)
    preparation.write(folder, [frame], [_BOX], [mask], encoder)

    assert cache.read(folder).info.frames == 1
    assert [path.name for path in folder.parent.iterdir()] == ["anna"]


@pytest.mark.parametrize("name", ["latents", "boxes", "masks"])
def test_a_changed_tensor_is_rejected(folder: Path, name: str) -> None:
    path = folder / "avatar.safetensors"
    tensors: dict[str, NDArray[Any]] = load_file(path)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] += 1
    save_file(tensors, path)

    with pytest.raises(errors.AssetError, match="content_hash is"):
        cache.read(folder)


def test_a_changed_manifest_is_rejected(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"fps": 25', '"fps": 24'))

    with pytest.raises(errors.AssetError, match="content_hash is"):
        cache.read(folder)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"schema": 3}, "schema is 3, this runtime reads 1 and 2"),
        ({"pixels": "bmp"}, "pixels is 'bmp', must be one of jpeg, png"),
        ({"surprise": 1}, "field 'surprise' is not a field of schema 2"),
        (
            {"frames": 5},
            "tensor latents has the shape 4 x 8 x 16 x 16, must have 5 x 8 x any x any",
        ),
    ],
)
def test_an_unsupported_manifest_is_rejected(
    folder: Path, change: dict[str, object], reported: str
) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(errors.AssetError) as caught:
        cache.read(folder)
    assert reported in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "avatar.safetensors", "pixels.safetensors"])
def test_a_missing_or_broken_file_is_reported(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x00 not this")
    with pytest.raises(errors.AssetError, match=name):
        cache.read(folder)
    (folder / name).unlink()
    with pytest.raises(errors.AssetError, match=name):
        cache.read(folder)


def test_a_box_outside_the_frame_is_rejected(folder: Path, encoder: preparation.Encoder) -> None:
    avatar = cache.read(folder)
    with pytest.raises(errors.AssetError, match="must lie inside 30x64"):
        cache.write(folder, replace(avatar.manifest, width=30), _tensors(folder))


@pytest.mark.parametrize(
    ("version", "vae_hash", "reported"),
    [
        ("v1", "made-for-tests", "model_version is v15, the served model has v1"),
        ("v15", "other", "vae_hash is made-for-tests, the served model has other"),
    ],
)
def test_an_avatar_of_another_model_is_rejected_with_both_values(
    folder: Path, version: str, vae_hash: str, reported: str
) -> None:
    with pytest.raises(errors.AssetError, match=reported):
        cache.check_model(cache.read(folder), folder, model_version=version, vae_hash=vae_hash)


def test_one_broken_avatar_leaves_the_others(folder: Path) -> None:
    (folder.parent / "ben").mkdir()

    sound, faults = cache.read_all(folder.parent, ["anna", "ben"])

    assert list(sound) == ["anna"]
    assert "manifest.json is unreadable" in str(faults["ben"])


def test_without_names_every_avatar_of_the_folder_is_read(folder: Path) -> None:
    (folder.parent / "notes").mkdir()

    sound, faults = cache.read_all(folder.parent)

    assert list(sound) == ["anna"]
    assert faults == {}


def test_play_goes_forward_and_back() -> None:
    assert [cache.fold(t, 3) for t in range(8)] == [0, 1, 2, 2, 1, 0, 0, 1]


def _tensors(folder: Path) -> dict[str, NDArray[Any]]:
    return load_file(folder / "avatar.safetensors") | load_file(folder / "pixels.safetensors")
