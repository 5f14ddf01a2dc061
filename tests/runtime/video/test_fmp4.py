"""The one file of a session in mode fmp4: its boxes, its pictures and its sound."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np
import pytest

from avatar_runtime.audio import g711
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.audio_formats import A_LAW, MU_LAW, PCM_16K, PCM_24K, AudioFormat
from avatar_runtime.protocol.media import Encoding, FilePart, RawImage
from avatar_runtime.video.fmp4 import SOUND_RATE, FileEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FPS: Final = 25
FRAME_S: Final = 1 / FPS
MAX_SKEW_S: Final = 0.002


def _picture(number: int, width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """Return a colourful picture that moves, `(h, w, 3) uint8` BGR."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = [(x + 2 * number) % 256, (y * 2) % 256, np.full_like(x, 90)]
    image = np.stack(planes, axis=2).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (15, 15), 0), np.uint8)


def _raw(image: NDArray[np.uint8]) -> RawImage:
    return RawImage(blend_host.i420(image), image.shape[1], image.shape[0])


def _grey(level: int) -> RawImage:
    pixels = 128 * 96
    return RawImage(bytes([level]) * pixels + bytes([128]) * (pixels // 2), 128, 96)


def _sound(audio: AudioFormat, frames: int, *, tone: bool = False) -> bytes:
    count = frames * audio.samples_per_frame(FPS)
    if not tone:
        return audio.silence * count
    wave = np.round(12_000 * np.sin(2 * np.pi * 400 * np.arange(count) / audio.rate))
    samples = wave.astype(np.int16)
    if audio.kind == "audio/pcm":
        return samples.tobytes()
    return (g711.encode_ulaw if audio is MU_LAW else g711.encode_alaw)(samples)


def _boxes(data: bytes) -> list[str]:
    """Return the types of the boxes; bytes that are no whole box are an error."""
    kinds, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8].decode())
        at += size
    assert at == len(data)
    return kinds


def _pictures(data: bytes) -> list[tuple[float, NDArray[np.uint8]]]:
    """Return the times and the pictures of a file, in BGR."""
    with av.open(io.BytesIO(data)) as container:
        return [
            (frame.time or 0.0, np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))
            for frame in container.decode(video=0)
        ]


def _samples(data: bytes) -> NDArray[np.float32]:
    """Return the sound of a file from its time 0 on, -1 to 1."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0
    assert {frame.sample_rate for frame in frames} == {SOUND_RATE}
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _onsets(samples: NDArray[np.float32]) -> list[float]:
    """Return when a tone begins, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    starts = np.flatnonzero(np.diff(loud, prepend=-SOUND_RATE) > SOUND_RATE // 20)
    return [float(loud[start]) / SOUND_RATE for start in starts]


def _write(
    marks: Sequence[int], formats: Sequence[AudioFormat], count: int = 100
) -> tuple[bytes, list[bytes]]:
    """Write frames that are bright and have a tone where `marks` says so."""
    encoder = FileEncoder(FPS)
    parts = []
    for position in range(count):
        audio = formats[position * len(formats) // count]
        marked = position in marks
        sound = _sound(audio, 1, tone=marked)
        encoding = Encoding(position % 50 == 0, 80, 2_000_000)
        part = FilePart(position, 1, sound, audio)
        parts.append(encoder.encode(_grey(200 if marked else 40), encoding, part))
    return b"".join(parts), parts


def test_each_part_is_whole_boxes_and_the_header_comes_first() -> None:
    data, parts = _write([], [PCM_24K], 60)
    assert _boxes(parts[0]) == ["ftyp", "moov", "moof", "mdat"]
    assert all(_boxes(part) == ["moof", "mdat"] for part in parts[1:])
    assert _boxes(data) == ["ftyp", "moov", *60 * ["moof", "mdat"]]


@pytest.mark.parametrize(
    "formats",
    [[PCM_24K], [PCM_16K], [MU_LAW], [A_LAW], [PCM_24K, PCM_16K], [MU_LAW, PCM_24K, PCM_16K]],
    ids=lambda formats: "-".join(f"{f.kind.removeprefix('audio/')}{f.rate}" for f in formats),
)
def test_picture_and_sound_are_in_step(formats: list[AudioFormat]) -> None:
    marks = [20, 50, 75]
    data, _ = _write(marks, formats)
    pictures = _pictures(data)
    times = [time for time, _ in pictures]
    assert times == pytest.approx([n * FRAME_S for n in range(100)], abs=1e-6)
    seen = [time for time, picture in pictures if picture.mean() > 128]
    assert seen == pytest.approx([mark * FRAME_S for mark in marks])
    heard = _onsets(_samples(data))
    assert heard == pytest.approx(seen, abs=MAX_SKEW_S)


def test_the_sound_in_a_part_is_at_most_160_ms_behind_its_picture() -> None:
    _, parts = _write([], [PCM_24K], 60)
    for count in range(10, 61):
        samples = _samples(b"".join(parts[:count]))
        assert count * FRAME_S - len(samples) / SOUND_RATE <= 0.16


def test_colours_and_their_description_are_those_of_the_source() -> None:
    encoder = FileEncoder(FPS)
    images = [_picture(number) for number in range(30)]
    data = b"".join(
        encoder.encode(
            _raw(image),
            Encoding(number == 0, 80, 20_000_000),
            FilePart(number, 1, _sound(PCM_24K, 1), PCM_24K),
        )
        for number, image in enumerate(images)
    )
    for (_, shown), image in zip(_pictures(data), images, strict=True):
        assert cv2.PSNR(shown, image) > 34
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        stream = container.streams.video[0]
    assert (frame.colorspace, frame.color_range) == (6, 1)  # ITU-R BT.601, limited
    assert (frame.color_primaries, frame.color_trc) == (1, 1)  # BT.709
    assert stream.sample_aspect_ratio in (None, 1)
    assert stream.codec_context.has_b_frames == 0


def test_dropped_frames_repeat_the_picture_before_them_and_keep_their_sound() -> None:
    encoder = FileEncoder(FPS)
    encoding = Encoding(keyframe=False, quality=80, bitrate=2_000_000)
    key = Encoding(keyframe=True, quality=80, bitrate=2_000_000)
    data = encoder.encode(_grey(40), key, FilePart(0, 1, _sound(PCM_24K, 1), PCM_24K))
    sound = _sound(PCM_24K, 1) + _sound(PCM_24K, 2, tone=True)
    data += encoder.encode(_grey(200), key, FilePart(1, 3, sound, PCM_24K))
    for position in range(4, 12):
        part = FilePart(position, 1, _sound(PCM_24K, 1), PCM_24K)
        data += encoder.encode(_grey(40), encoding, part)
    bright = [picture.mean() > 128 for _, picture in _pictures(data)]
    assert bright == [False, False, False, True, *8 * [False]]
    assert _onsets(_samples(data)) == pytest.approx([2 * FRAME_S], abs=MAX_SKEW_S)


def test_a_file_may_start_with_dropped_frames() -> None:
    part = FilePart(0, 3, _sound(PCM_24K, 3), PCM_24K)
    data = FileEncoder(FPS).encode(_grey(90), Encoding(True, 80, 2_000_000), part)
    assert [time for time, _ in _pictures(data)] == pytest.approx([0, FRAME_S, 2 * FRAME_S])


@pytest.mark.parametrize("size", [(128, 96), (1280, 720), (2048, 2048)])
def test_quality_and_bitrate_may_change_within_the_file(size: tuple[int, int]) -> None:
    encoder = FileEncoder(FPS)
    settings = [(80, 2_000_000), (80, 100_000), (100, 20_000_000), (1, 5_000_000), (40, 2_000_000)]
    data = b"".join(
        encoder.encode(
            _raw(_picture(number, *size)),
            Encoding(True, quality, bitrate),
            FilePart(number, 1, _sound(PCM_24K, 1), PCM_24K),
        )
        for number, (quality, bitrate) in enumerate(settings)
    )
    assert _boxes(data).count("moov") == 1
    pictures = _pictures(data)
    assert len(pictures) == len(settings)
    assert cv2.PSNR(pictures[2][1], _picture(2, *size)) > 34


def test_another_size_is_an_error() -> None:
    encoder = FileEncoder(FPS)
    key = Encoding(True, 80, 2_000_000)
    encoder.encode(_raw(_picture(0)), key, FilePart(0, 1, _sound(PCM_24K, 1), PCM_24K))
    part = FilePart(1, 1, _sound(PCM_24K, 1), PCM_24K)
    with pytest.raises(EncoderError, match="128 x 96"):
        encoder.encode(_raw(_picture(0, 64, 64)), key, part)


@pytest.mark.parametrize("image", [RawImage(bytes(100), 64, 64), RawImage(b"", 64, 64)])
def test_a_wrong_image_is_an_error(image: RawImage) -> None:
    part = FilePart(0, 1, _sound(PCM_24K, 1), PCM_24K)
    with pytest.raises(EncoderError, match="64 x 64"):
        FileEncoder(FPS).encode(image, Encoding(True, 80, 2_000_000), part)


def test_decoders_agree_on_the_codec_of_the_file() -> None:
    data, _ = _write([], [PCM_24K], 10)
    with av.open(io.BytesIO(data)) as container:
        video: Any = container.streams.video[0].codec_context
        audio: Any = container.streams.audio[0].codec_context
    assert (video.name, audio.name, audio.profile) == ("h264", "aac", "LC")
