"""What of the crop box is redrawn."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_runtime.avatars import geometry, masks

_FACE = geometry.Box(30, 30, 90, 90)
_CROP = geometry.crop_box(_FACE, 120, 120)


def test_the_mask_covers_the_mouth_and_not_the_eyes() -> None:
    mask = masks.feathered(masks.ellipse(_FACE, _CROP), _FACE, _CROP)

    column = (_CROP.width) // 2
    assert mask[75 - _CROP.y1, column] == 255
    assert mask[45 - _CROP.y1, column] == 0


def test_the_upper_boundary_is_softened_by_the_blur_alone() -> None:
    region = np.full((_CROP.height, _CROP.width), 255, np.uint8)
    sharp = masks.feathered(region, _FACE, _CROP, blur_ratio=0.0)
    soft = masks.feathered(region, _FACE, _CROP, blur_ratio=0.1)

    edge = 60 - _CROP.y1
    assert sharp[edge - 1, 45] == 0
    assert sharp[edge, 45] == 255
    assert 0 < soft[edge - 1, 45] < soft[edge, 45] < 255
    assert soft[edge - 6, 45] == 0


def test_nothing_outside_the_face_box_is_kept() -> None:
    region = np.full((_CROP.height, _CROP.width), 255, np.uint8)
    mask = masks.feathered(region, _FACE, _CROP, blur_ratio=0.0)

    assert int((mask > 0).sum()) == _FACE.width * _FACE.height // 2


def _parsed() -> np.ndarray:
    """Return skin from 156 to 356 across and 100 to 400 down, a mouth, a nose and a neck."""
    classes = np.zeros((512, 512), np.uint8)
    classes[100:400, 156:357] = 1
    classes[200:260, 240:272] = 10  # the nose: skin no longer
    classes[320:350, 220:290] = 11
    classes[318:322, 220:290] = 12
    classes[348:352, 220:290] = 13
    classes[400:500, 200:312] = 14
    return classes


_WHOLE = geometry.Box(0, 0, 512, 512)


@pytest.mark.parametrize(("mode", "neck"), [("raw", 0), ("neck", 255)])
def test_plain_modes_are_lists_of_classes(mode: str, neck: int) -> None:
    region = masks.region(_parsed(), _WHOLE, mode)

    assert region[335, 256] == region[319, 256] == region[351, 256] == 255  # mouth and lips
    assert region[150, 200] == 255  # skin
    assert region[230, 256] == region[50, 50] == 0  # nose, background
    assert region[450, 256] == neck
    assert set(np.unique(region)) == {0, 255}


def test_the_jaw_is_dilated_in_the_middle_and_eroded_in_the_cheeks() -> None:
    region = masks.region(_parsed(), _WHOLE, "jaw")

    # The cone is 33 wide and high: above the skin it reaches 16 rows up, 16 across.
    middle = np.flatnonzero(region[:200, 300])
    assert middle[0] == 84
    # Over 80 columns from the middle two erosions of 35 take 34 back from what had grown by 16.
    row = np.flatnonzero(region[250])
    assert (row[0], row[-1]) == (156 - 16 + 34, 356 + 16 - 34)
    assert region[250, 256 - 80] == region[250, 256 + 80] == 255
    assert region[335, 256] == 255


def test_a_wider_middle_keeps_more_of_the_jaw() -> None:
    narrow, wide = (masks.region(_parsed(), _WHOLE, "jaw", cheek_width=w) for w in (80, 90))
    assert (wide >= narrow).all()
    assert (wide > narrow).any()


@pytest.mark.parametrize("mode", masks.MODES)
def test_every_mode_is_feathered_inside_any_crop_box(mode: str) -> None:
    face = geometry.Box(10, 7, 107, 111)  # odd sides, and a crop box cut off by the picture
    crop = geometry.crop_box(face, 140, 125)
    region = masks.region(_parsed(), crop, mode)
    mask = masks.feathered(region, face, crop)

    assert mask.shape == region.shape == (crop.height, crop.width)
    inner = masks.bounding_box(mask)
    assert 0 < inner.height <= crop.height // 2 + 16
    outside = mask.copy()
    outside[inner.y1 : inner.y2, inner.x1 : inner.x2] = 0
    assert not outside.any()
    assert mask[inner.y1, inner.x1 : inner.x2].any()
    assert mask[inner.y2 - 1, inner.x1 : inner.x2].any()
    assert len(np.unique(mask)) > 20


def test_an_empty_mask_has_an_empty_bounding_box() -> None:
    empty = masks.bounding_box(np.zeros((4, 6), np.uint8))
    assert (empty.width, empty.height) == (0, 0)
