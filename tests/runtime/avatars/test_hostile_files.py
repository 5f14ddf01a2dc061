"""Files that a stranger wrote: read within limits, refused without a crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.runtime.avatars.spoiling import fault_of, read_tensors

from avatar_runtime import errors
from avatar_runtime.avatars import cache, manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"fps": 25, "fps": 30', "manifest.json is unreadable: field 'fps' is given twice"),
        ('"blur_ratio": NaN', "manifest.json is unreadable: NaN is not a JSON number"),
        (
            '"fps": 1e999',
            "manifest.json: fps is inf, must be a whole number from 1 to 120",
        ),
        ('"fps": ' + "[" * 5000 + "]" * 5000, "manifest.json is unreadable: "),
        ('"fps": 1' + "0" * 5000, "manifest.json is unreadable: "),
        ('"tools": "' + "x" * (1 << 20) + '"', "it has more than 1048576 bytes"),
    ],
)
def test_a_hostile_manifest_is_refused(spoilable: Path, text: str, expected: str) -> None:
    path = spoilable / "manifest.json"
    path.write_text(path.read_text().replace('"fps": 25', text))

    assert expected in fault_of(spoilable)


# Files


def test_a_link_out_of_the_folder_is_refused(spoilable: Path) -> None:
    elsewhere = spoilable.parent / "elsewhere.safetensors"
    (spoilable / "pixels.safetensors").rename(elsewhere)
    (spoilable / "pixels.safetensors").symlink_to(elsewhere)

    assert fault_of(spoilable) == (
        f"pixels.safetensors is a link to {elsewhere}, must lie inside the folder"
    )


def test_links_inside_the_folder_are_read_as_in_a_mounted_volume(spoilable: Path) -> None:
    (spoilable / "..data").mkdir()
    for name in ("manifest.json", "avatar.safetensors", "pixels.safetensors"):
        (spoilable / name).rename(spoilable / "..data" / name)
        (spoilable / name).symlink_to(f"..data/{name}")

    assert cache.read(spoilable).info.frames == 4


def test_a_pipe_is_refused_and_not_waited_for(spoilable: Path) -> None:
    (spoilable / "manifest.json").unlink()
    os.mkfifo(spoilable / "manifest.json")

    assert fault_of(spoilable) == "manifest.json is unreadable: it is not a regular file"


@pytest.mark.parametrize("length", [1 << 21, 1 << 40, (1 << 64) - 1])
def test_a_huge_header_is_refused_before_it_is_read(spoilable: Path, length: int) -> None:
    (spoilable / "avatar.safetensors").write_bytes(length.to_bytes(8, "little") + bytes(100))

    assert fault_of(spoilable) == (
        f"avatar.safetensors is unreadable: its header has {length} bytes, the limit is 1048576"
    )


def test_a_huge_file_is_refused_before_it_is_read(spoilable: Path) -> None:
    os.truncate(spoilable / "pixels.safetensors", 17 << 30)

    assert (
        fault_of(spoilable) == "pixels.safetensors has 18253611008 bytes, the limit is 17179869184"
    )


@given(seed=st.integers(0, 2**32 - 1))
@example(seed=38236)  # infinite latents of both signs
@settings(max_examples=60)
def test_mutated_files_are_refused_without_a_crash(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated"
    if not folder.exists():
        _write_plain(folder)
    noise = np.random.default_rng(seed)
    path = folder / noise.choice(["manifest.json", "avatar.safetensors", "pixels.safetensors"])
    good = path.read_bytes()
    spoiled = bytearray(good)
    for at in noise.integers(0, min(len(good), 2000), noise.integers(1, 6)):
        spoiled[at] = noise.integers(256)
    path.write_bytes(spoiled)
    try:
        cache.read(folder)
    except errors.AssetError:
        pass
    finally:
        path.write_bytes(good)


def _write_plain(folder: Path) -> None:
    n, side = 2, 64
    file = np.frombuffer(
        cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes(), np.uint8
    )
    pixels, pixel_offsets = cache.pack([file] * n)
    masks, mask_offsets = cache.pack([np.full(48 * 48, 255, np.uint8)] * n)
    made = cache.Manifest(
        model_version="v15", vae_hash="x", fps=25, width=side, height=side, frames=n, crop_size=128
    )
    cache.write(
        folder,
        made,
        {
            "latents": np.zeros((n, 8, 16, 16), np.float16),
            "boxes": np.array([[10, 12, 40, 44]] * n, np.int32),
            "crop_boxes": np.array([[1, 4, 49, 52]] * n, np.int32),
            "masks": masks,
            "mask_offsets": mask_offsets,
            "valid": np.ones(n, np.uint8),
            "pixels": pixels,
            "pixel_offsets": pixel_offsets,
        },
    )


# Schema 1


def test_an_avatar_of_schema_1_is_read_with_its_old_hash(spoilable: Path) -> None:
    tensors = read_tensors(spoilable)
    old = cache.Manifest(
        model_version="v15", vae_hash="x", fps=25, width=72, height=64, frames=4,
        crop_size=128, schema=1,
    )  # fmt: skip
    written = cache.write(spoilable, old, tensors)

    avatar = cache.read(spoilable)
    assert avatar.info.content_hash == written
    assert avatar.face_resize == "bilinear"
    assert avatar.manifest.consent == ""
    assert "consent" not in (spoilable / "manifest.json").read_text()


def test_nan_is_no_ratio() -> None:
    made = cache.Manifest(
        model_version="v15", vae_hash="", fps=25, width=72, height=64, frames=1,
        crop_size=128, blur_ratio=float("nan"),
    )  # fmt: skip

    with pytest.raises(ValueError, match="blur_ratio is nan, must be a number from 0 to 1"):
        manifest.check(made)
