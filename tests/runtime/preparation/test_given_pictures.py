"""Pictures of another program: read exactly, and refused before they cost more than they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from tests.runtime.preparation import bombs

from avatar_runtime import errors
from avatar_runtime.preparation import given_pictures

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("flags", [cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE])
def test_a_picture_is_what_opencv_decodes(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "00000000.png"
    colours = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    cv2.imwrite(str(path), colours)
    expected = cv2.imread(str(path), flags)
    assert expected is not None
    assert np.array_equal(given_pictures.read(path, flags), expected)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (bombs.png(size=(20_000, 20_000)), "is 20000x20000 pixels, must have at most 100 megapix"),
        (bombs.png([bombs.text(64)]), "has texts or colour profiles that inflate to more than 4 M"),
        (bombs.png(pixels=bombs.deflated(64)), "has pixel data that inflate to more than 64x64"),
        (b"", "is not a picture"),
        (b"text", "is not a picture"),
    ],
    ids=["size", "text", "pixels", "empty", "no-picture"],
)
def test_what_costs_too_much_or_is_no_picture_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, fault: str
) -> None:
    path = tmp_path / "00000000.png"
    path.write_bytes(content)
    if content.startswith(bombs.SIGNATURE):
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(errors.AssetError) as caught:
        given_pictures.read(path, cv2.IMREAD_COLOR)
    assert str(caught.value).startswith(f"{path}: {fault}"), caught.value
