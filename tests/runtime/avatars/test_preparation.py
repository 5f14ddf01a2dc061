"""From frames, boxes and masks to what the cache stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from avatar_runtime.avatars import cache, geometry, masks, preparation

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_BOX = geometry.Box(20, 20, 84, 84)
_CROP = geometry.crop_box(_BOX)
_MASK = masks.feathered(masks.ellipse(_BOX, _CROP), _BOX, _CROP)


def _frames(count: int = 3) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    return [np.asarray(rng.integers(0, 256, (100, 100, 3)), np.uint8) for _ in range(count)]


def _prepare(encoder: preparation.Encoder) -> dict[str, NDArray[Any]]:
    return preparation.prepare(_frames(), [_BOX] * 3, [_MASK] * 3, encoder)[1]


def test_the_hole_is_minus_one_and_the_reference_is_whole(encoder: preparation.Encoder) -> None:
    _prepare(encoder)
    masked, whole = encoder.seen[0][:2]  # type: ignore[attr-defined]

    assert (masked[:, 64:] == -1).all()
    assert np.array_equal(masked[:, :64], whole[:, :64])
    assert whole[:, 64:].std() > 0.1
    assert -1 <= whole.min() < whole.max() <= 1


def test_the_crop_is_rgb() -> None:
    blue = np.zeros((100, 100, 3), np.uint8)
    blue[..., 0] = 255

    crop = preparation.crop(blue, _BOX, 128)

    assert crop.shape == (3, 128, 128)
    assert crop[:, 64, 64].tolist() == [0, 0, 1]


def test_latents_are_masked_first_then_reference(encoder: preparation.Encoder) -> None:
    latents = _prepare(encoder)["latents"]

    assert latents.shape == (3, 8, 16, 16)
    assert latents.dtype == np.float16
    assert (latents[:, :4, 8:] == -1).all()
    assert (latents[:, 4:, 8:] > -1).all()


def test_batches_of_any_size_give_the_same_latents(encoder: preparation.Encoder) -> None:
    alone = preparation.encode_latents(_frames(), [_BOX] * 3, encoder, batch=1)
    seen = encoder.seen  # type: ignore[attr-defined]
    seen.clear()
    pairs = preparation.encode_latents(iter(_frames()), iter([_BOX] * 3), encoder, batch=2)

    assert [len(crops) for crops in seen] == [4, 2]  # two crops for each frame
    assert pairs.dtype == np.float16
    assert np.array_equal(pairs, alone)
    assert not np.array_equal(alone[0], alone[1])


def test_frames_without_a_face_are_in_the_tensors_and_the_manifest(
    encoder: preparation.Encoder,
) -> None:
    manifest, tensors = preparation.prepare(
        _frames(), [_BOX] * 3, [_MASK] * 3, encoder, valid=[True, False, True]
    )

    assert manifest.invalid_frames == (1,)
    assert tensors["valid"].tolist() == [1, 0, 1]
    assert len(tensors["latents"]) == len(tensors["boxes"]) == 3


@pytest.mark.parametrize(("version", "stated"), [("v1", (-7, 0, "raw")), ("v15", (0, 10, "jaw"))])
def test_the_manifest_states_the_rules_of_the_version(
    encoder: preparation.Encoder, version: str, stated: tuple[int, int, str]
) -> None:
    encoder.version = version  # type: ignore[misc]
    manifest = preparation.describe(
        encoder, frames=1, width=8, height=8, bbox_shift=-7, tools={"detector": "1"}
    )

    assert (manifest.bbox_shift, manifest.extra_margin, manifest.mask_mode) == stated
    assert manifest.tools["detector"] == "1"
    assert "numpy" in manifest.tools


def test_equal_input_gives_equal_bytes(encoder: preparation.Encoder, tmp_path: Path) -> None:
    hashes = {
        preparation.write(tmp_path / name, _frames(), [_BOX] * 3, [_MASK] * 3, encoder)
        for name in ("one", "two")
    }

    assert len(hashes) == 1


@pytest.mark.parametrize("pixels", ["jpeg", "png"])
def test_the_latents_are_those_of_the_stored_frames(
    encoder: preparation.Encoder, tmp_path: Path, pixels: str
) -> None:
    folder = tmp_path / "anna"
    preparation.write(folder, _frames(), [_BOX] * 3, [_MASK] * 3, encoder, pixels=pixels)
    seen = encoder.seen[0][1]  # type: ignore[attr-defined]

    shown = preparation.crop(cache.read(folder).frame(0), _BOX, 128) * 2 - 1

    assert np.array_equal(seen, shown)


def test_png_keeps_the_source_bit_identical(encoder: preparation.Encoder, tmp_path: Path) -> None:
    preparation.write(tmp_path / "a", _frames(), [_BOX] * 3, [_MASK] * 3, encoder, pixels="png")

    assert np.array_equal(cache.read(tmp_path / "a").frame(2), _frames()[2])
