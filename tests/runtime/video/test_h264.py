"""The H.264 encoder, decoded by FFmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from avatar_runtime.avatars import cache
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.media import Encoding, RawImage
from avatar_runtime.video import h264
from avatar_runtime.video.h264 import H264Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

AVATARS = Path(__file__).parents[3] / "examples" / "avatars"
KEYFRAME = Encoding(keyframe=True, quality=80, bitrate=2_000_000)
DELTA = Encoding(keyframe=False, quality=80, bitrate=2_000_000)
IDR, SPS, PPS = 5, 7, 8
"""Types of NAL units: ITU-T H.264, table 7-1."""


def _picture(shift: int = 0, width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """Return a soft image of many colours, which moves to the right with `shift`."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = [
        128 + 100 * np.sin((columns + shift) / 17),
        128 + 100 * np.sin(rows / 13),
        128 + 100 * np.sin((rows + columns + shift) / 23),
    ]
    return np.stack(planes, axis=2).astype(np.uint8)


def _raw(image: NDArray[np.uint8]) -> RawImage:
    height, width = image.shape[:2]
    return RawImage(blend_host.i420(image), width, height)


def _decoded(units: Sequence[bytes]) -> Iterator[Any]:
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    for unit in units:
        frames = context.decode(av.Packet(unit))
        assert len(frames) == 1  # no frame waits for the next one
        yield frames[0]


def _nal_types(unit: bytes) -> set[int]:
    starts = unit.split(b"\x00\x00\x01")[1:]
    return {start[0] & 0x1F for start in starts}


def test_each_image_is_one_access_unit_with_the_colours_of_the_source() -> None:
    encoder = H264Encoder(25)
    images = [_picture(shift) for shift in range(30)]
    units = [
        encoder.encode(_raw(image), DELTA if number else KEYFRAME)
        for number, image in enumerate(images)
    ]

    frames = list(_decoded(units))

    for frame, image in zip(frames, images, strict=True):
        # swscale's own conversion is one level darker; with a wrong matrix or range, 28 dB.
        shown = cv2.cvtColor(frame.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2BGR_I420)
        assert cv2.PSNR(shown, image) > 35
        assert np.abs((shown.astype(int) - image).mean(axis=(0, 1))).max() < 1.2
    assert [PictureType(frame.pict_type).name for frame in frames] == ["I"] + ["P"] * 29


def test_the_stream_names_its_colours_and_has_square_pixels() -> None:
    unit = H264Encoder(25).encode(_raw(_picture()), KEYFRAME)

    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    (frame,) = context.decode(av.Packet(unit))

    # ITU-T H.273: matrix 6 is BT.601, primaries and transfer 1 are BT.709, range 1 is limited.
    named = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
    assert [int(value) for value in named] == [6, 1, 1, 1]
    assert (frame.width, frame.height) == (128, 96)
    assert context.sample_aspect_ratio in (None, 1)


def test_a_keyframe_can_be_decoded_alone() -> None:
    encoder = H264Encoder(25)
    forms = [KEYFRAME, DELTA, DELTA, KEYFRAME, DELTA]
    units = [encoder.encode(_raw(_picture(i)), form) for i, form in enumerate(forms)]

    assert [{IDR, SPS, PPS} <= _nal_types(unit) for unit in units] == [
        form.keyframe for form in forms
    ]
    first = [np.asarray(f.to_ndarray(format="bgr24")) for f in _decoded(units)]
    later = [np.asarray(f.to_ndarray(format="bgr24")) for f in _decoded(units[3:])]
    assert np.array_equal(first[3], later[0])
    assert np.array_equal(first[4], later[1])


def test_a_higher_quality_takes_more_bytes_and_is_closer_to_the_source() -> None:
    image = _picture(width=256, height=256)
    noise = np.random.default_rng(1).normal(0, 6, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    sizes, errors = [], []
    for quality in (1, 40, 80, 100):
        unit = H264Encoder(25).encode(_raw(image), Encoding(True, quality, 20_000_000))
        (frame,) = _decoded([unit])
        sizes.append(len(unit))
        errors.append(-cv2.PSNR(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8), image))
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)


def test_a_head_that_moves_takes_fewer_bytes_than_with_the_settings_of_the_preset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    avatar = cache.read(AVATARS / "anna")
    raw = [_raw(blend_host.resized(avatar.frame(index), 640, 360)) for index in range(12)]
    sizes, quality = {}, {}
    for name, settings in {"own": h264._X264_SEARCH, "preset": "aq-mode=1:subme=1"}.items():
        monkeypatch.setattr(h264, "_X264_SEARCH", settings)
        encoder = H264Encoder(25)
        units = [
            encoder.encode(image, KEYFRAME if n == 0 else DELTA) for n, image in enumerate(raw)
        ]
        sizes[name] = sum(map(len, units))
        planes = [np.asarray(frame.to_ndarray(format="yuv420p")) for frame in _decoded(units)]
        sent = [np.frombuffer(image.planes, np.uint8).reshape(540, 640) for image in raw]
        quality[name] = np.mean([cv2.PSNR(a, b) for a, b in zip(planes, sent, strict=True)])
    assert sizes["own"] < 0.9 * sizes["preset"]
    assert quality["own"] >= quality["preset"]


def test_the_bitrate_bounds_the_stream() -> None:
    generator = np.random.default_rng(2)
    images = [generator.integers(0, 256, (128, 128, 3), np.uint8) for _ in range(75)]
    total: dict[int, int] = {}
    for bitrate in (100_000, 400_000):
        encoder = H264Encoder(25)
        units = [
            encoder.encode(_raw(image), Encoding(number == 0, 80, bitrate))
            for number, image in enumerate(images)
        ]
        total[bitrate] = sum(map(len, units[25:])) * 8 // 2  # after the buffer of one second
    # Noise is the worst image there is; x264 may exceed the rate where the buffer is empty.
    assert total[100_000] < 1.5 * 100_000
    assert total[400_000] < 1.5 * 400_000
    assert total[100_000] < total[400_000]


def test_another_size_starts_a_new_stream() -> None:
    encoder = H264Encoder(25)
    sizes = [(128, 96), (128, 96), (64, 64), (64, 64)]
    forms = [KEYFRAME, DELTA, KEYFRAME, DELTA]
    units = [
        encoder.encode(_raw(_picture(0, *size)), form)
        for size, form in zip(sizes, forms, strict=True)
    ]
    shown = [(frame.width, frame.height) for frame in _decoded(units)]
    assert shown == sizes


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (RawImage(bytes(100), 64, 64), "64 x 64"),
        (RawImage(b"", 64, 64), "64 x 64"),
    ],
)
def test_a_wrong_image_is_an_error_and_the_next_one_is_encoded(image: RawImage, told: str) -> None:
    encoder = H264Encoder(25)
    with pytest.raises(EncoderError, match=told):
        encoder.encode(image, KEYFRAME)
    (frame,) = _decoded([encoder.encode(_raw(_picture()), KEYFRAME)])
    assert frame.width == 128
