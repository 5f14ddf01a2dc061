"""What of the crop box is redrawn."""

from __future__ import annotations

import numpy as np

from avatar_runtime.avatars import geometry, masks

_FACE = geometry.Box(30, 30, 90, 90)
_CROP = geometry.crop_box(_FACE, 120, 120)


def test_the_middle_of_the_mouth_is_drawn_anew_and_the_eyes_are_not() -> None:
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
