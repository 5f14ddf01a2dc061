"""Each spoiled copy of a good avatar is refused with the frame, the value and the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.runtime.avatars.spoiling import Tensors, fault_of, spoil

from avatar_runtime.avatars import cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_N = 4


def test_the_copy_that_nothing_spoiled_is_read(spoilable: Path) -> None:
    spoil(spoilable)

    assert cache.read(spoilable).info.frames == _N


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fps": 0}, "manifest.json: fps is 0, must be a whole number from 1 to 120"),
        ({"fps": 25.0}, "manifest.json: fps is 25.0, must be a whole number from 1 to 120"),
        ({"fps": True}, "manifest.json: fps is True, must be a whole number from 1 to 120"),
        ({"fps": 10**6}, "manifest.json: fps is 1000000, must be a whole number from 1 to 120"),
        ({"frames": 0}, "manifest.json: frames is 0, must be a whole number from 1 to 100000"),
        (
            {"frames": 10**30},
            "manifest.json: frames is a huge number, must be a whole number from 1 to 100000",
        ),
        (
            {"frames": 5},
            "tensor latents has the shape 4 x 8 x 16 x 16, must have 5 x 8 x any x any",
        ),
        ({"width": -1}, "manifest.json: width is -1, must be a whole number from 16 to 8192"),
        ({"width": 96}, "frame 0: the picture has 72x64 pixels, the manifest has 96x64"),
        ({"height": 48}, "frame 0: the picture has 72x64 pixels, the manifest has 72x48"),
        ({"height": 40}, "frame 0: the face box is [10, 12, 40, 44], must lie inside 72x40"),
        (
            {"crop_size": 120},
            "tensor latents has 16 x 16 latents a frame, must have a square whose side is "
            "crop_size 120 divided by a power of 2 up to 32",
        ),
        (
            {"mask_mode": "beard"},
            "manifest.json: mask_mode is 'beard', must be one of raw, neck, jaw, ellipse",
        ),
        ({"blur_ratio": -0.5}, "manifest.json: blur_ratio is -0.5, must be a number from 0 to 1"),
        (
            {"upper_boundary_ratio": 2},
            "manifest.json: upper_boundary_ratio is 2, must be a number from 0 to 1",
        ),
        ({"model_version": "v2"}, "manifest.json: model_version is 'v2', must be one of v1, v15"),
        (
            {"face_resize": "nearest"},
            "manifest.json: face_resize is 'nearest', must be one of bilinear, lanczos",
        ),
        (
            {"background": "green"},
            "manifest.json: background is 'green', must be #rrggbb in lowercase, or empty",
        ),
        (
            {"disclosure": "AI\ngenerated"},
            "manifest.json: disclosure is 'AI\\ngenerated', must be text of 0 to 100 printable "
            "characters in one line",
        ),
        ({"consent": 5}, "manifest.json: consent is 5, must be text of at most 2000 characters"),
        (
            {"invalid_frames": [2, 1]},
            "manifest.json: invalid_frames is (2, 1), must be a list of ascending frame numbers "
            "from 0",
        ),
        (
            {"invalid_frames": [9]},
            "manifest.json: invalid_frames contains 9, the avatar has 4 frames",
        ),
        (
            {"invalid_frames": [1]},
            "frame 1: valid is 1, but invalid_frames contain the frame",
        ),
        ({"surprise": 1}, "manifest.json: field 'surprise' is not a field of schema 2"),
        ({"schema": 1}, "manifest.json: field 'background' is not a field of schema 1"),
        ({"schema": "2"}, "manifest.json: schema is '2', this runtime reads 1 and 2"),
    ],
)
def test_a_wrong_field_is_refused_with_its_value_and_limit(
    spoilable: Path, fields: dict[str, object], expected: str
) -> None:
    spoil(spoilable, fields=fields)

    assert fault_of(spoilable) == expected


def _set(name: str, index: int, value: object) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].reshape(len(tensors[name]), -1)[index] = value

    return change


def _all_invalid(tensors: Tensors) -> None:
    tensors["valid"][:] = 0


def _empty_mask(tensors: Tensors) -> None:
    begin, end = tensors["mask_offsets"][2:4]
    tensors["masks"][begin:end] = 0


def _retype(name: str, dtype: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].astype(dtype)

    return change


def _shorten(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name][:-1]

    return change


def _small_latents(tensors: Tensors) -> None:
    tensors["latents"] = tensors["latents"][..., :13, :13]


def _flat_latents(tensors: Tensors) -> None:
    tensors["latents"] = tensors["latents"][:, :4]


def _drop(tensors: Tensors) -> None:
    del tensors["masks"]


def _add(tensors: Tensors) -> None:
    tensors["weights"] = np.zeros(1, np.uint8)


def _idle_alone(tensors: Tensors) -> None:
    tensors["idle_offsets"] = np.zeros(_N + 1, np.int64)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _set("latents", 1, np.nan),
            "frame 1: a latent is nan, must be a finite number",
        ),
        (
            _set("latents", 3, -np.inf),
            "frame 3: a latent is -inf, must be a finite number",
        ),
        (
            _small_latents,
            "tensor latents has 13 x 13 latents a frame, must have a square whose side is "
            "crop_size 128 divided by a power of 2 up to 32",
        ),
        (
            _flat_latents,
            "tensor latents has the shape 4 x 4 x 16 x 16, must have 4 x 8 x any x any",
        ),
        (_retype("latents", "float32"), "tensor latents is F32, must be float16"),
        (_retype("boxes", "int64"), "tensor boxes is int64, must be int32"),
        (_shorten("boxes"), "tensor boxes has the shape 3 x 4, must have 4 x 4"),
        (_shorten("valid"), "tensor valid has 3 entries, must have 4"),
        (_shorten("masks"), "mask_offsets ends at 9216, the data has 9215 bytes"),
        (_drop, "tensor masks is missing"),
        (_add, "tensor 'weights' is unknown"),
        (_idle_alone, "tensor idle_pixels is missing"),
        (_set("valid", 2, 7), "frame 2: valid is 7, must be 0 or 1"),
        (
            _set("valid", 2, 0),
            "frame 2: valid is 0, but invalid_frames do not contain the frame",
        ),
        (
            _set("boxes", 1, [-3, 12, 40, 44]),
            "frame 1: the face box is [-3, 12, 40, 44], must lie inside 72x64",
        ),
        (
            _set("boxes", 1, [40, 12, 40, 44]),
            "frame 1: the face box is [40, 12, 40, 44], must lie inside 72x64",
        ),
        (
            _set("boxes", 1, [10, 12, 40, 1 << 30]),
            "frame 1: the face box is [10, 12, 40, 1073741824], coordinates must be from -32768 "
            "to 32768",
        ),
        (
            _set("crop_boxes", 3, [1, 4, 97, 28]),
            "frame 3: the crop box is 96x24, must be square",
        ),
        (
            _set("crop_boxes", 0, [20, 4, 68, 52]),
            "frame 0: the crop box [20, 4, 68, 52] does not contain the face box",
        ),
        (
            _set("crop_boxes", 0, [1, 4, 48, 51]),
            "frame 0: the blend mask has 2304 bytes, the crop box 47x47 needs 2209",
        ),
        (
            _set("crop_boxes", 0, [49, 4, 1, 52]),
            "frame 0: the blend mask has 2304 bytes, the crop box -48x48 needs 0",
        ),
        (
            _empty_mask,
            "frame 2: the blend mask is empty inside the face box, must have a pixel over 0",
        ),
        (_set("mask_offsets", 0, 5), "mask_offsets starts at 5, must start at 0"),
        (
            _set("mask_offsets", 2, 1),
            "frame 1: mask_offsets decreases from 2304 to 1",
        ),
        (
            _set("pixel_offsets", -1, 1 << 40),
            "pixel_offsets ends at 1099511627776, the data has",
        ),
        (
            _set("pixel_offsets", 1, -5),
            "frame 0: pixel_offsets decreases from 0 to -5",
        ),
    ],
)
def test_a_wrong_tensor_is_refused_with_the_frame_and_the_value(
    spoilable: Path, change: Callable[[Tensors], None], expected: str
) -> None:
    spoil(spoilable, change)

    assert fault_of(spoilable).startswith(expected)


def test_an_avatar_without_any_face_is_refused(spoilable: Path) -> None:
    spoil(spoilable, _all_invalid, {"invalid_frames": [0, 1, 2, 3]})

    assert fault_of(spoilable) == "all 4 frames are invalid, at least 1 must have a face"


def test_a_frame_without_a_face_needs_no_box(spoilable: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["valid"][1] = 0
        tensors["boxes"][1] = tensors["crop_boxes"][1] = 0
        tensors["masks"] = tensors["masks"][2304:]
        tensors["mask_offsets"][2:] -= 2304

    spoil(spoilable, change, {"invalid_frames": [1]})

    avatar = cache.read(spoilable)
    assert [avatar.valid(i) for i in range(_N)] == [True, False, True, True]


def test_latents_that_cancel_out_in_a_sum_are_finite(spoilable: Path) -> None:
    spoil(spoilable, _set("latents", 1, 65504.0))

    assert cache.read(spoilable).info.frames == _N
