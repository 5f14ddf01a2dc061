"""What the frames of one session take of the connection and of a core, by mode and size.

The frames are those of an avatar of the examples, whose drawn mouth moves, and the sound is speech
of the examples. Quality is compared by the luma PSNR and SSIM of decoded frames against the frames
before their encoding. For H.264 the record also has the lowest bytes at which the PSNR, and at
which the SSIM, of JPEG is reached. Sizes above that of the avatar, 384 x 384, are enlarged.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from avatar_client import sound
from avatar_runtime.avatars import cache, geometry, idle_pictures
from avatar_runtime.batching.frames import AudioWindow, FrameRequest
from avatar_runtime.engine.rendering import blend_host, idle_frames, patches
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.media import Encoding, FilePart, RawImage
from avatar_runtime.protocol.video_stream import KEYFRAME_PERIOD_S
from avatar_runtime.video.fmp4 import FileEncoder
from avatar_runtime.video.h264 import H264Encoder
from localcluster import paths
from localcluster.bench import record
from localcluster.fakes import callers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

FPS: Final = 25
SEED: Final = 1
SIZES: Final = ((256, 256), (384, 384), (512, 512), (1280, 720))
DEFAULT_QUALITY: Final = 80
BITRATE: Final = 20_000_000
"""More than any of the streams takes."""


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.video", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--frames", type=int, default=100, help="for each measurement")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # as in the runtime
    drawn = frames(options.frames)
    rows = [compare(drawn, width, height) for width, height in SIZES]
    for row in rows:
        print(_line(row), file=sys.stderr)
    record.write(options.out, SEED, "none", {"frames": options.frames, "video": rows})
    return 0


def _line(row: dict[str, Any]) -> str:
    modes = ", ".join(
        f"{mode} {row[mode]['kbps']:.0f} kbit/s {row[mode]['encode_ms']:.2f} ms"
        for mode in ("jpeg", "h264", "fmp4", "patch")
    )
    return (
        f"{row['size']}: {modes}; h264 {row['ratio']:.0%} of jpeg, {row['ratio_at_equal_psnr']:.0%}"
        f" at equal PSNR, {row['ratio_at_equal_ssim']:.0%} at equal SSIM; idle {row['idle_ms']}"
    )


def frames(count: int) -> list[Image]:
    """Return frames of an avatar whose mouth opens and closes, `(h, w, 3) uint8` BGR."""
    avatar = _avatar()
    random = np.random.default_rng(SEED)
    drawn = []
    for position in range(count):
        index = cache.fold(position, avatar.manifest.frames)
        box = avatar.box(index)
        face = avatar.frame(index)[box.y1 : box.y2, box.x1 : box.x2]
        face = np.asarray(cv2.resize(face, (256, 256)), np.uint8)
        opening = int(abs(20 + 18 * np.sin(position * 0.9)) + random.integers(0, 8))
        cv2.ellipse(face, (128, 200), (44, opening), 0, 0, 360, (40, 30, 90), -1)
        face = np.asarray(cv2.GaussianBlur(face, (9, 9), 0), np.uint8)
        drawn.append(blend_host.compose(avatar, index, face))
    return drawn


def compare(drawn: Sequence[Image], width: int, height: int) -> dict[str, Any]:
    """Return the figures of both modes for one size."""
    images = [blend_host.resized(image, width, height) for image in drawn]
    jpeg = measure(images, *jpeg_of(images, DEFAULT_QUALITY))
    h264 = measure(images, *h264_of(images, DEFAULT_QUALITY))
    found = {DEFAULT_QUALITY: h264}
    psnr, ssim = (equal(images, jpeg, name, found) for name in ("psnr_db", "ssim"))
    return {
        "size": f"{width}x{height}",
        "jpeg": jpeg,
        "h264": h264,
        "fmp4": measure(images, *fmp4_of(images, DEFAULT_QUALITY)),
        "patch": measure(images, *patch_of(images, DEFAULT_QUALITY)),
        "idle_loop_kib": idle_loop_kib(width, height),
        "ratio": round(h264["kbps"] / jpeg["kbps"], 4),
        "h264_at_equal_psnr": psnr,
        "ratio_at_equal_psnr": round(psnr["kbps"] / jpeg["kbps"], 4),
        "h264_at_equal_ssim": ssim,
        "ratio_at_equal_ssim": round(ssim["kbps"] / jpeg["kbps"], 4),
        "idle_ms": idle_cost(width, height),
    }


def equal(
    images: Sequence[Image],
    jpeg: dict[str, float],
    name: str,
    found: dict[int, dict[str, float]],
    encoder: Callable[[int], H264Encoder] = H264Encoder,
) -> dict[str, float]:
    """Return the figures of the lowest quality of H.264 that is as good as JPEG, or of the best.

    `found` keeps the figures by quality; `encoder` makes an encoder for a frame rate.
    """
    low, high = 1, 100  # the answer is in here
    while low < high:
        middle = (low + high) // 2
        if middle not in found:
            found[middle] = measure(images, *h264_of(images, middle, encoder))
        low, high = (low, middle) if found[middle][name] >= jpeg[name] else (middle + 1, high)
    if low not in found:
        found[low] = measure(images, *h264_of(images, low, encoder))
    return {"quality": low, **found[low]}


def idle_cost(width: int, height: int) -> dict[str, float]:
    """Return the CPU milliseconds of an idle picture, without the encoding of H.264.

    `jpeg` and `raw` are made from the files of the avatar; `cached` is a JPEG image again.
    """
    avatar = _avatar()
    window = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=True)
    requests = [
        FrameRequest("s", -1, 1, 0, 0.0, "anna", n, window, DEFAULT_QUALITY, width, height)
        for n in range(avatar.manifest.frames)
    ]
    kept = idle_frames.IdleFrames({"anna": avatar}, 1 << 30)
    costs = {}
    for name, raw in (("jpeg", False), ("cached", False), ("raw", True)):
        calls = [lambda r=r, raw=raw: kept.frame(replace(r, raw=raw)).image for r in requests]
        costs[name] = round(_timed(calls)[1] * 1000 / len(requests), 4)
    return costs


def jpeg_of(images: Sequence[Image], quality: int) -> tuple[list[bytes], list[Image], float]:
    """Return the files, the decoded images and the CPU seconds of the encoding."""
    height, width = images[0].shape[:2]
    files, seconds = _timed(
        [lambda image=image: blend_host.encode_jpeg(image, width, height, quality)  # type: ignore[misc]
         for image in images]
    )  # fmt: skip
    return files, [_decoded(file) for file in files], seconds


def patch_of(images: Sequence[Image], quality: int) -> tuple[list[bytes], list[Image], float]:
    """Return the patches, the images over the pictures in silence, and the CPU seconds."""
    avatar, (height, width) = _avatar(), images[0].shape[:2]
    whole = (0, 0, avatar.manifest.width, avatar.manifest.height)
    indices = [cache.fold(position, avatar.manifest.frames) for position in range(len(images))]
    boxes = [
        patches.rectangle(avatar.blended(index), geometry.Box(*whole), width, height)
        for index in indices
    ]
    cut = [
        image[box.y1 : box.y2, box.x1 : box.x2] for image, box in zip(images, boxes, strict=True)
    ]
    files, seconds = _timed(
        [lambda image=image: blend_host.encode_jpeg(image, image.shape[1], image.shape[0], quality)  # type: ignore[misc]
         for image in cut]
    )  # fmt: skip
    shown = []
    for index, box, file in zip(indices, boxes, files, strict=True):
        below = blend_host.encode_jpeg(idle_pictures.decode(avatar, index), width, height, quality)
        picture = _decoded(below)
        picture[box.y1 : box.y2, box.x1 : box.x2] = _decoded(file)
        shown.append(picture)
    return files, shown, seconds


def idle_loop_kib(width: int, height: int) -> float:
    """Return the size of the pictures in silence, which a client of patches fetches once."""
    avatar = _avatar()
    sizes = [
        len(blend_host.encode_jpeg(idle_pictures.decode(avatar, n), width, height, DEFAULT_QUALITY))
        for n in range(avatar.manifest.frames)
    ]
    return round(sum(sizes) / 1024, 1)


def _avatar() -> cache.Avatar:
    return cache.read(paths.REPOSITORY / "examples/avatars/anna")


def _decoded(file: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def h264_of(
    images: Sequence[Image], quality: int, make: Callable[[int], H264Encoder] = H264Encoder
) -> tuple[list[bytes], list[Image], float]:
    """Return the access units, the decoded images and the CPU seconds of the encoding."""
    height, width = images[0].shape[:2]
    encoder = make(FPS)

    def encode(position: int, image: Image) -> bytes:
        keyframe = position % (KEYFRAME_PERIOD_S * FPS) == 0
        raw = RawImage(blend_host.i420(image), width, height)
        return encoder.encode(raw, Encoding(keyframe, quality, BITRATE))

    units, seconds = _timed(
        [lambda item=item: encode(*item) for item in enumerate(images)]  # type: ignore[misc]
    )
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    shown = [frame for unit in units for frame in context.decode(av.Packet(unit))]
    return units, [_bgr(frame) for frame in shown], seconds


def fmp4_of(images: Sequence[Image], quality: int) -> tuple[list[bytes], list[Image], float]:
    """Return the parts of a file with speech, the decoded images and the CPU seconds of it."""
    height, width = images[0].shape[:2]
    encoder = FileEncoder(FPS)
    speech = sound.read(callers.SPEECH)
    size = PCM_24K.samples_per_frame(FPS) * PCM_24K.bytes_per_sample
    pcm = speech.pcm * (1 + size * len(images) // len(speech.pcm))

    def encode(position: int, image: Image) -> bytes:
        keyframe = position % (KEYFRAME_PERIOD_S * FPS) == 0
        raw = RawImage(blend_host.i420(image), width, height)
        part = FilePart(position, 1, pcm[position * size : (position + 1) * size], PCM_24K)
        return encoder.encode(raw, Encoding(keyframe, quality, BITRATE), part)

    parts, seconds = _timed(
        [lambda item=item: encode(*item) for item in enumerate(images)]  # type: ignore[misc]
    )
    with av.open(io.BytesIO(b"".join(parts))) as container:
        return parts, [_bgr(frame) for frame in container.decode(video=0)], seconds


def _bgr(frame: Any) -> Image:
    plane = frame.to_ndarray(format="yuv420p")
    return np.asarray(cv2.cvtColor(plane, cv2.COLOR_YUV2BGR_I420), np.uint8)


def measure(
    images: Sequence[Image], encoded: Sequence[bytes], decoded: Sequence[Image], cpu_s: float
) -> dict[str, float]:
    """Return the figures of one mode; `kbps` is that of the base64 in the messages."""
    characters = sum(len(base64.b64encode(data)) for data in encoded)
    pairs = [(_luma(a), _luma(b)) for a, b in zip(images, decoded, strict=True)]
    return {
        "kbps": round(characters * 8 * FPS / len(encoded) / 1000, 1),
        "encode_ms": round(cpu_s * 1000 / len(encoded), 3),
        "psnr_db": round(float(np.mean([cv2.PSNR(a, b) for a, b in pairs])), 2),
        "ssim": round(float(np.mean([ssim(a, b) for a, b in pairs])), 4),
    }


def ssim(one: Image, other: Image) -> float:
    """Return the mean structural similarity of two planes.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004:
    a Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01 and K2 = 0.03 of 255 levels.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)

    def local(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(plane, (11, 11), 1.5), np.float32)

    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean())


def _luma(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _timed(calls: Sequence[Callable[[], bytes]]) -> tuple[list[bytes], float]:
    began = time.process_time()
    results = [call() for call in calls]
    return results, time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
