"""Composition and JPEG."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from avatar_runtime.avatars import geometry
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    from avatar_runtime.avatars import cache


def test_outside_the_mask_every_source_pixel_is_unchanged(anna: cache.Avatar) -> None:
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    box, source = anna.box(0), anna.frame(0)

    composed = blend_host.compose(anna, 0, face)

    covered = np.zeros(source.shape[:2], bool)
    covered[box.y1 : box.y2, box.x1 : box.x2] = anna.mask(0) > 0
    assert np.array_equal(composed[~covered], source[~covered])
    assert (composed[covered] != source[covered]).any(axis=1).mean() > 0.9


def test_where_the_mask_is_255_only_the_face_shows(anna: cache.Avatar) -> None:
    face = np.full((128, 128, 3), (10, 20, 30), np.uint8)
    box = anna.box(0)

    composed = blend_host.compose(anna, 0, face)[box.y1 : box.y2, box.x1 : box.x2]

    full = anna.mask(0) == 255
    assert full.any()
    assert (composed[full] == (10, 20, 30)).all()


def test_between_0_and_255_the_blend_is_linear_and_rounded(anna: cache.Avatar) -> None:
    face = np.full((128, 128, 3), (10, 20, 30), np.uint8)
    box = anna.box(0)

    composed = blend_host.compose(anna, 0, face)[box.y1 : box.y2, box.x1 : box.x2]

    share = anna.mask(0)[:, :, None] / 255
    source = anna.frame(0)[box.y1 : box.y2, box.x1 : box.x2]
    assert len(np.unique(share)) > 50
    assert np.array_equal(composed, np.rint(share * (10, 20, 30) + (1 - share) * source))


@pytest.mark.parametrize("side", [96, 128, 256])
def test_a_patch_over_the_source_frame_equals_the_composition(
    anna: cache.Avatar, side: int
) -> None:
    face = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)

    where, pixels = blend_host.patch(anna, 2, face)

    assert pixels.shape == (where.height, where.width, 3)
    assert where.height < anna.box(2).height  # the upper half of the face is nobody's business
    pasted = anna.frame(2).copy()
    pasted[where.y1 : where.y2, where.x1 : where.x2] = pixels
    assert np.array_equal(pasted, blend_host.compose(anna, 2, face))


@pytest.mark.parametrize(
    ("face_resize", "method"),
    [("bilinear", cv2.INTER_LINEAR), ("lanczos", cv2.INTER_LANCZOS4)],
)
def test_the_avatar_chooses_how_the_face_is_resized(
    anna: cache.Avatar, face_resize: str, method: int
) -> None:
    assert anna.face_resize == "bilinear"  # as MuseTalk
    anna.manifest = replace(anna.manifest, face_resize=face_resize)
    face = np.random.default_rng(5).integers(0, 256, (128, 128, 3), np.uint8)
    box = anna.box(0)

    composed = blend_host.compose(anna, 0, face)[box.y1 : box.y2, box.x1 : box.x2]

    full = anna.mask(0) == 255
    expected = cv2.resize(face, (box.width, box.height), interpolation=method)
    assert np.array_equal(composed[full], expected[full])


def test_a_frame_without_a_face_keeps_its_source(anna: cache.Avatar) -> None:
    anna._valid = np.array([1, 0, 1, 1, 1, 1], np.uint8)
    anna._boxes[1] = geometry.Box(0, 0, 0, 0)
    face = np.full((128, 128, 3), 9, np.uint8)

    assert np.array_equal(blend_host.compose(anna, 1, face), anna.frame(1))
    assert not np.array_equal(blend_host.compose(anna, 0, face), anna.frame(0))


def test_an_avatar_with_an_empty_mask_keeps_its_frame(anna: cache.Avatar) -> None:
    anna._masks = np.zeros_like(anna._masks)
    face = np.full((128, 128, 3), 9, np.uint8)

    assert blend_host.patch(anna, 0, face)[1].size == 0
    assert np.array_equal(blend_host.compose(anna, 0, face), anna.frame(0))


def test_dividing_by_255_with_shifts_is_exact() -> None:
    every = np.arange(65536, dtype=np.uint16)[: 255 * 255 + 128]
    assert np.array_equal(every + 1 + (every >> 8) >> 8, every // 255)


@pytest.mark.parametrize(("width", "height"), [(192, 192), (96, 96), (256, 320)])
def test_images_have_the_requested_size(anna: cache.Avatar, width: int, height: int) -> None:
    jpeg = blend_host.encode_jpeg(anna.frame(0), width, height, 90)

    decoded = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    assert jpeg[:2] == b"\xff\xd8"
    assert decoded.shape == (height, width, 3)


def test_higher_quality_takes_more_bytes(anna: cache.Avatar) -> None:
    sizes = [len(blend_host.encode_jpeg(anna.frame(0), 192, 192, q)) for q in (30, 60, 95)]

    assert sizes == sorted(set(sizes))
