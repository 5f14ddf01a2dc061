"""What the settings of x264 cost and give, by size, for the frames of `localcluster.bench.video`.

For each setting: the figures at the default quality, and the bytes at which the luma PSNR, and at
which the SSIM, of JPEG is reached, as a share of the bytes of JPEG. A share of `null` means that no
quality reaches it. `ceiling` is what an encoder without loss would reach: 4:2:0 planes in limited
range are rounded. `grain` are the same frames with the noise of a camera.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.video import h264
from localcluster.bench import record, video

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.video.h264 import StreamSettings
    from localcluster.bench.video import Image

GRAIN: Final = 1.5
"""The standard deviation of the noise, in levels of 255."""
SETTINGS: Final = {
    "ultrafast": ("ultrafast", "aq-mode=0:subme=0"),
    "superfast": ("superfast", "aq-mode=1:subme=1"),
    "superfast, no aq": ("superfast", "aq-mode=0:subme=1"),
    "superfast, subme 2": ("superfast", "aq-mode=1:subme=2"),
    "superfast, no aq, subme 2": ("superfast", "aq-mode=0:subme=2"),
    "superfast, no aq, subme 2, deblock -1": ("superfast", "aq-mode=0:subme=2:deblock=-1,-1"),
    "veryfast": ("veryfast", "aq-mode=1:subme=2"),
    "veryfast, no aq": ("veryfast", "aq-mode=0:subme=2"),
}
"""By name: the preset, and what differs from it."""


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.video_settings", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--frames", type=int, default=25, help="for each measurement")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # as in the runtime
    drawn = video.frames(options.frames)
    rows = []
    for width, height in video.SIZES:
        images = [blend_host.resized(image, width, height) for image in drawn]
        rows.append(compare(f"{width}x{height}", images))
        if (width, height) == video.SIZES[-1]:
            rows.append(compare(f"{width}x{height}, grain", with_grain(images)))
    record.write(options.out, video.SEED, "none", {"frames": options.frames, "sizes": rows})
    return 0


def with_grain(images: Sequence[Image]) -> list[Image]:
    """Return images with noise, a new one for each."""
    random = np.random.default_rng(video.SEED)
    noisy = [image + random.normal(0.0, GRAIN, image.shape) for image in images]
    return [np.asarray(np.clip(np.round(image), 0, 255), np.uint8) for image in noisy]


def compare(size: str, images: Sequence[Image]) -> dict[str, Any]:
    """Return the figures of all settings for one size."""
    jpeg = video.measure(images, *video.jpeg_of(images, video.DEFAULT_QUALITY))
    lossless = video.measure(images, [b""] * len(images), [_rounded(image) for image in images], 0)
    row: dict[str, Any] = {
        "size": size,
        "jpeg": jpeg,
        "ceiling": {name: lossless[name] for name in ("psnr_db", "ssim")},
    }
    for setting, (preset, parameters) in SETTINGS.items():
        make = _maker(preset, parameters)
        default = video.measure(images, *video.h264_of(images, video.DEFAULT_QUALITY, make))
        found = {video.DEFAULT_QUALITY: default}
        row[setting] = {"default": default}
        for name in ("psnr_db", "ssim"):
            equal = video.equal(images, jpeg, name, found, make)
            is_reached = equal[name] >= jpeg[name]
            row[setting][f"at_equal_{name}"] = {
                "quality": equal["quality"],
                "encode_ms": equal["encode_ms"],
                "ratio": round(equal["kbps"] / jpeg["kbps"], 4) if is_reached else None,
            }
        print(size, setting, row[setting], file=sys.stderr, flush=True)
    return row


def _rounded(image: Image) -> Image:
    height, width = image.shape[:2]
    planes = np.frombuffer(blend_host.i420(image), np.uint8).reshape(height * 3 // 2, width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), np.uint8)


def _maker(preset: str, parameters: str) -> type[h264.H264Encoder]:
    class Encoder(h264.H264Encoder):
        def _open(self, settings: StreamSettings) -> Any:
            context: Any = av.CodecContext.create(h264.SOFTWARE, "w")
            context.time_base = Fraction(1, video.FPS)
            h264.configure(context, video.FPS, settings)
            chosen = context.options["x264-params"] + ":" + parameters
            context.options = {**context.options, "preset": preset, "x264-params": chosen}
            context.open()
            return context

    return Encoder


if __name__ == "__main__":
    sys.exit(main())
