"""What of the crop box is redrawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from avatar_runtime.avatars import geometry, masks

_FACE = geometry.Box(30, 30, 90, 90)
_CROP = geometry.crop_box(_FACE)


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


def test_the_jaw_kernel_is_that_of_musetalk() -> None:
    kernel = masks._jaw_kernel()

    assert kernel.shape == (33, 33)
    assert kernel.sum(axis=1).tolist() == [0] * 10 + list(range(1, 22, 2)) + [21] * 12
    assert np.array_equal(kernel, kernel[:, ::-1])
    assert kernel[10, 16] == 1


def _reference_jaw(parsed: np.ndarray, cheek_width: int = 90) -> np.ndarray:
    """Return the region pixel by pixel, from the definitions of dilation and erosion."""
    kernel = [
        [row - 16, column - 16]
        for row, column in zip(*np.nonzero(masks._jaw_kernel()), strict=True)
    ]
    grown = np.zeros((512, 512), bool)
    for rows, columns in kernel:
        grown |= _moved(parsed == 1, -rows, -columns, False)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3))
    taken = grown
    for _ in range(2):
        taken = np.logical_and.reduce(
            [
                _moved(taken, 1 - row, 17 - column, True)
                for row, column in zip(*np.nonzero(ellipse), strict=True)
            ]
        )
    cheek = np.abs(np.arange(512) - 256) >= cheek_width
    face = np.where(cheek, taken, grown) & (parsed != 10)
    return np.asarray(face | np.isin(parsed, (11, 12, 13)))


def _moved(image: np.ndarray, rows: int, columns: int, outside: bool) -> np.ndarray:
    """Return an image moved down and to the right, with `outside` beyond its edges."""
    padded = np.pad(image, 64, constant_values=outside)
    return padded[64 - rows : 576 - rows, 64 - columns : 576 - columns]


def _skin(rows: slice, columns: slice) -> np.ndarray:
    classes = np.zeros((512, 512), np.uint8)
    classes[rows, columns] = 1
    return classes


@pytest.mark.slow
@pytest.mark.parametrize(
    "parsed",
    [
        _parsed(),
        _skin(slice(0, 0), slice(0, 0)),
        _skin(slice(0, 300), slice(0, 200)),
        _skin(slice(200, 512), slice(3, 510)),
        _skin(slice(250, 252), slice(90, 93)),
        _skin(slice(0, 512), slice(0, 512)),
    ],
    ids=["a face", "none", "the upper left corner", "the lower edge", "a dot", "all"],
)
def test_the_jaw_equals_the_reference_in_every_pixel(parsed: np.ndarray) -> None:
    made = masks.region(parsed, _WHOLE, "jaw")
    assert np.array_equal(made > 0, _reference_jaw(parsed))


def test_the_jaw_is_dilated_in_the_middle_and_eroded_in_the_cheeks() -> None:
    region = masks.region(_parsed(), _WHOLE, "jaw")

    # OpenCV centres the kernel on row 16: it looks 6 rows up and 16 down, so skin grows 16 rows
    # up and 6 down. Sideways it has a width of 21.
    middle = np.flatnonzero(region[:, 300])
    assert (middle[0], middle[-1]) == (84, 399 + 6)
    # Two erosions of 35 would take 34 columns back on each side; only the columns from a distance
    # of 90 on are eroded, so the row ends at the last ones before them.
    row = np.flatnonzero(region[150])
    assert (row[0], row[-1]) == (256 - 89, 256 + 89)
    assert region[335, 256] == 255


def test_the_nose_is_kept_out_of_the_jaw() -> None:
    region = masks.region(_parsed(), _WHOLE, "jaw")
    assert not region[200:260, 240:272].any()
    assert region[199, 239] == region[260, 272] == 255


def test_a_wider_middle_keeps_more_of_the_jaw() -> None:
    narrow, wide = (masks.region(_parsed(), _WHOLE, "jaw", cheek_width=w) for w in (80, 95))
    assert (wide >= narrow).all()
    assert (wide > narrow).any()


@pytest.mark.parametrize("side", [200, 511, 700])
def test_the_region_is_resized_as_pillow_does(side: int) -> None:
    crop = geometry.Box(-3, 5, side - 3, side + 5)
    region = masks.region(_parsed(), crop, "raw")
    whole = masks.region(_parsed(), _WHOLE, "raw")

    expected = np.asarray(Image.fromarray(whole).resize((side, side)))
    assert np.abs(region.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("side", [100, 150, 600])
def test_the_parser_sees_the_square_padded_with_black(side: int) -> None:
    rng = np.random.default_rng(3)
    frame = np.asarray(rng.integers(1, 256, (160, 240, 3)), np.uint8)
    crop = geometry.Box(-20, 90, side - 20, side + 90)

    canvas = Image.fromarray(frame).crop((crop.x1, crop.y1, crop.x2, crop.y2))
    expected = np.asarray(canvas.resize((512, 512), Image.Resampling.BILINEAR))
    square = masks.parse_square(masks.padded(frame, crop))

    assert square.shape == (512, 512, 3)
    assert not square[:, :10].any()
    assert np.abs(square.astype(int) - expected).max() <= 1


def test_a_box_outside_the_frame_is_black() -> None:
    frame = np.full((10, 12, 3), 9, np.uint8)
    assert not masks.padded(frame, geometry.Box(12, 0, 20, 8)).any()
    cut = masks.padded(frame[:, :, 0], geometry.Box(-1, -2, 13, 12))
    assert (cut.shape, int(cut.sum())) == ((14, 14), 9 * 120)


def test_the_upper_boundary_is_a_share_of_the_crop_box() -> None:
    region = np.full((_CROP.height, _CROP.width), 255, np.uint8)
    mask = masks.feathered(region, _FACE, _CROP, upper_boundary_ratio=0.6, blur_ratio=0.0)
    # The crop box is 90 pixels high and begins at 15: 54 rows of it are left out.
    assert (int(np.flatnonzero(mask.any(axis=1))[0]), _CROP) == (54, geometry.Box(15, 15, 105, 105))


@pytest.mark.parametrize("mode", masks.MODES)
def test_every_mode_is_feathered_inside_any_crop_box(mode: str) -> None:
    face = geometry.Box(10, 7, 107, 111)  # odd sides, and a crop box that reaches outside the frame
    crop = geometry.crop_box(face)
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


def test_the_blur_of_a_part_is_that_of_the_whole_mask() -> None:
    random = np.random.default_rng(5)
    for _ in range(60):
        height, width = (int(n) for n in random.integers(1, 200, 2))
        rows, columns = np.sort(random.integers(0, [height + 1, width + 1], (2, 2)), axis=0).T
        region = np.zeros((height, width), np.uint8)
        part = region[rows[0] : rows[1], columns[0] : columns[1]]
        part[:] = random.integers(0, 2, part.shape) * 255
        whole = geometry.Box(0, 0, width, height)
        found = masks.feathered(region, whole, whole, upper_boundary_ratio=0.0)
        kernel = int(0.1 * width // 2 * 2) + 1
        np.testing.assert_array_equal(found, cv2.GaussianBlur(region, (kernel, kernel), 0))
