"""The table of colours gives what swscale gives, within 1 of 255 levels."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    Interpolation,
    VideoReformatter,
)

from avatar_runtime.preparation.sources import colours

WIDTH, HEIGHT = 128, 96
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
LIMITED = ((64, 940), (64, 960), (64, 960))
"""Ranges of luma and chroma with 10 bits."""


def smooth(transfer: int, primaries: int, matrix: int) -> Any:
    """Return a frame in yuv444p10le with every kind of colour, also outside of sRGB."""
    rng = np.random.default_rng(3)
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv444p10le")
    for plane, (low, high) in zip(frame.planes, LIMITED, strict=True):
        small = rng.integers(low, high, (9, 9)).astype(np.float32)
        rows = np.zeros((HEIGHT, plane.line_size // 2), np.uint16)
        rows[:, :WIDTH] = cv2.resize(small, (WIDTH, HEIGHT))
        plane.update(rows.tobytes())
    frame.color_trc, frame.color_primaries = transfer, primaries
    frame.colorspace, frame.color_range = matrix, 1
    return frame


def by_swscale(frame: Any, transfer: int) -> Any:
    made: Any = VideoReformatter().reformat(
        frame,
        format="gbrp16le",
        dst_colorspace=Colorspace.DEFAULT,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        dst_color_trc=transfer,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=EXACT,
        threads=1,
    )
    green, blue, red = (
        np.frombuffer(plane, np.uint16).reshape(HEIGHT, -1)[:, :WIDTH] for plane in made.planes
    )
    return np.stack([blue, green, red], axis=-1) / 257


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "target"),
    [(16, 9, 9, 13), (18, 9, 9, 13), (1, 12, 1, 1)],
    ids=["pq", "hlg", "display-p3"],
)
def test_mapped_colours_are_those_of_swscale(
    transfer: int, primaries: int, matrix: int, target: int
) -> None:
    frame = smooth(transfer, primaries, matrix)
    converter = colours.Converter((0, 0, 0))
    for _ in range(2):  # the filter keeps a state
        made = converter.convert(frame, WIDTH, HEIGHT)
        assert made.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(made - by_swscale(frame, target)).max() < 1.6
