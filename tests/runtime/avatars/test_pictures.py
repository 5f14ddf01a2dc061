"""The stored pictures of an avatar are complete files of the size in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.avatars.spoiling import Tensors, fault_of, replace_picture, spoil

from avatar_runtime.avatars import cache, pictures
from avatar_runtime.errors import AssetError

if TYPE_CHECKING:
    from pathlib import Path


def _jpeg(width: int = 72, height: int = 64, kind: str = ".jpg") -> bytes:
    image = np.random.default_rng(2).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(kind, image)[1].tobytes()


_GOOD = _jpeg()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"", "is empty"),
        (bytes(len(_GOOD)), "is not a JPEG file"),
        (_jpeg(kind=".png"), "is not a JPEG file"),
        (b"<html>" * 20, "is not a JPEG file"),
        (_GOOD[:-1], "is cut: the JPEG file has no end"),
        (_GOOD[: len(_GOOD) // 2], "is cut: the JPEG file has no end"),
        (_GOOD[:10], "is a damaged JPEG file: a segment has a wrong length"),
        (_GOOD[:2], "is cut: the JPEG file ends in its header"),
        (_GOOD[:-600] + bytes(600), "is cut: the JPEG file has no end"),
        (_GOOD.replace(b"\xff\xc0", b"\xff\xc3"), "is a JPEG file of an unsupported type"),
        (_jpeg(64, 64), "has 64x64 pixels, the manifest has 72x64"),
    ],
)
def test_a_wrong_picture_is_refused_with_its_frame(
    spoilable: Path, file: bytes, expected: str
) -> None:
    spoil(spoilable, lambda tensors: replace_picture(tensors, 2, file))

    assert fault_of(spoilable).startswith(f"frame 2: the picture {expected}")


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (slice(0, 20), "is not a PNG file"),
        (slice(0, -1), "is cut: the PNG file has no end"),
        (slice(0, 500), "is cut: the PNG file has no end"),
    ],
)
def test_a_cut_png_is_refused(cut: slice, expected: str) -> None:
    file = np.frombuffer(_jpeg(kind=".png"), np.uint8)

    pictures.check(file, "png", 72, 64)
    with pytest.raises(ValueError, match=expected):
        pictures.check(file[cut], "png", 72, 64)


@given(
    kind=st.sampled_from(["jpeg", "png"]),
    at=st.integers(0, 20_000),
    value=st.binary(min_size=1, max_size=40),
)
@settings(max_examples=300)
def test_what_is_accepted_can_be_decoded_or_fails_as_a_picture(
    kind: str, at: int, value: bytes
) -> None:
    """A mutated file never makes the check itself fail."""
    file = bytearray(_GOOD if kind == "jpeg" else _jpeg(kind=".png"))
    at %= len(file)
    file[at : at + len(value)] = value
    try:
        pictures.check(np.frombuffer(bytes(file), np.uint8), kind, 72, 64)
    except ValueError:
        return
    image = cv2.imdecode(np.frombuffer(bytes(file), np.uint8), cv2.IMREAD_COLOR)
    assert image is None or image.shape == (64, 72, 3)


def test_idle_pictures_are_shown_where_there_are_some(spoilable: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["idle_pixels"], tensors["idle_offsets"] = cache.pack(
            [np.frombuffer(part, np.uint8) for part in (b"", _GOOD, b"", b"")]
        )

    spoil(spoilable, change)

    avatar = cache.read(spoilable)
    assert avatar.idle_file(1).tobytes() == _GOOD
    assert avatar.idle_file(0).tobytes() == avatar.file(0).tobytes()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (_GOOD[:-1], "frame 3: the idle picture is cut: the JPEG file has no end"),
        (_jpeg(80, 64), "frame 3: the idle picture has 80x64 pixels, the manifest has 72x64"),
    ],
)
def test_a_wrong_idle_picture_is_refused(spoilable: Path, file: bytes, expected: str) -> None:
    def change(tensors: Tensors) -> None:
        tensors["idle_pixels"], tensors["idle_offsets"] = cache.pack(
            [np.frombuffer(part, np.uint8) for part in (b"", b"", b"", file)]
        )

    spoil(spoilable, change)

    assert fault_of(spoilable) == expected


def _grey(width: int = 72, height: int = 64) -> bytes:
    return cv2.imencode(".png", np.full((height, width), 77, np.uint8))[1].tobytes()


def test_an_avatar_may_have_alpha(spoilable: Path) -> None:
    assert not cache.read(spoilable).info.has_alpha
    with pytest.raises(AssetError, match="frame 1: the alpha cannot be decoded"):
        cache.read(spoilable).alpha(1)

    spoil(spoilable, lambda tensors: _add_alpha(tensors, _grey()))

    avatar = cache.read(spoilable)
    assert avatar.info.has_alpha
    np.testing.assert_array_equal(avatar.alpha(3), np.full((64, 72), 77))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"", "frame 3: the alpha is empty"),
        (_GOOD, "frame 3: the alpha is not a PNG file"),
        (_grey(80), "frame 3: the alpha has 80x64 pixels, the manifest has 72x64"),
    ],
    ids=["empty", "jpeg", "size"],
)
def test_a_wrong_alpha_is_refused(spoilable: Path, file: bytes, expected: str) -> None:
    spoil(spoilable, lambda tensors: _add_alpha(tensors, file))
    assert fault_of(spoilable) == expected


def _add_alpha(tensors: Tensors, last: bytes) -> None:
    parts = [np.frombuffer(part, np.uint8) for part in (*[_grey()] * 3, last)]
    tensors["alpha_pixels"], tensors["alpha_offsets"] = cache.pack(parts)
