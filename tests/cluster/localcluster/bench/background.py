"""What it takes to show an avatar over any page: a key colour, or alpha, by size and codec.

The frames are those of `localcluster.bench.video` with a soft matte: the background of the avatar
is cut out, its edge is blurred, and thin strands stand out of the hair. Four ways are compared:

- `key`: the colours over green. The client removes the green as OBS does: by the distance from the
  key in Cb and Cr, with a soft threshold, and without green that is left over the others. The two
  parameters are the best of a grid for these frames, which a client cannot know.
- `below`: the colours over black, and below them the alpha as grey, in a picture of twice the
  height. Shown is colour + (1 - alpha) * page.
- `vp9`: the colours, and alpha in VP9's own second stream, at the PSNR of H.264.

`edge_psnr_db` is the PSNR of what is shown over white, black and a saturated page against the exact
composition, in the pixels within two of one that is neither opaque nor clear; `opaque_psnr_db` is
that of opaque pixels.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from localcluster.bench import record, video

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Show = Callable[[Image, Sequence[int]], NDArray[np.float32]]

SIZES: Final = (256, 384, 512)
KEY: Final = (0, 255, 0)
PAGES: Final = ((255, 255, 255), (0, 0, 0), (200, 40, 160))
"""Colours of pages, BGR."""
_STRANDS: Final = 60
_VP9_QUALITIES: Final = range(10, 52, 3)
"""Constant rate factors that are tried, from the best one."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """One frame: colours, `(h, w, 3) uint8` BGR, and alpha, `(h, w) uint8`."""

    colour: Image
    alpha: Image

    def over(self, page: Sequence[int]) -> Image:
        """Return the frame over a colour, rounded."""
        weight = self.alpha[..., None].astype(np.float32) / 255
        mixed = self.colour * weight + np.asarray(page, np.float32) * (1 - weight)
        return np.asarray(np.rint(mixed), np.uint8)


def main() -> int:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.background", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--frames", type=int, default=50, help="for each measurement")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # as in the runtime
    drawn = video.frames(options.frames)
    rows = [compare(drawn, side) for side in SIZES]
    for row in rows:
        print(row, file=sys.stderr)
    record.write(options.out, video.SEED, "none", {"frames": options.frames, "background": rows})
    return 0


def compare(drawn: Sequence[Image], side: int) -> dict[str, Any]:
    """Return the figures of each way at one size."""
    cutouts = [cut_out(cv2.resize(image, (side, side)), n) for n, image in enumerate(drawn)]
    keyed = [cutout.over(KEY) for cutout in cutouts]
    stacked = [below(cutout) for cutout in cutouts]
    row: dict[str, Any] = {"size": f"{side}x{side}", "opaque": {}, "key": {}, "below": {}}
    for codec, encode in (("jpeg", video.jpeg_of), ("h264", video.h264_of)):
        plain = [cutout.over((80, 80, 80)) for cutout in cutouts]
        row["opaque"][codec] = video.measure(plain, *encode(plain, video.DEFAULT_QUALITY))
        files, decoded, seconds = encode(keyed, video.DEFAULT_QUALITY)
        row["key"][codec] = _figures(files, seconds) | best_key(cutouts, decoded)
        files, decoded, seconds = encode(stacked, video.DEFAULT_QUALITY)
        row["below"][codec] = _figures(files, seconds) | quality(cutouts, decoded, show_below)
    row["vp9"] = vp9(cutouts, row["below"]["h264"]["opaque_psnr_db"])
    return row


def cut_out(image: Image, position: int) -> Cutout:
    """Return a frame of the example without its background, with a soft edge and strands."""
    side = image.shape[0]
    mask = np.zeros((side + 2, side + 2), np.uint8)
    for corner in ((0, 0), (side - 1, 0)):
        flags = 4 | cv2.FLOODFILL_MASK_ONLY | 255 << 8
        cv2.floodFill(image, mask, corner, 0, (6, 6, 6), (6, 6, 6), flags)
    clear = cv2.dilate(mask[1:-1, 1:-1], np.ones((3, 3), np.uint8))
    # What is outside of the edge gets the colours inside of it: straight alpha.
    small = cv2.inpaint(image, clear, 3, cv2.INPAINT_TELEA)
    alpha = cv2.GaussianBlur(255 - clear, (0, 0), side / 384)
    random = np.random.default_rng(video.SEED)
    middle, scale = side / 2, side / 384
    for angle in random.uniform(-np.pi, 0, _STRANDS):
        radius, length = 86 * scale, random.uniform(12, 40) * scale
        sway = 0.05 * np.sin(position / 8)
        begin, end = (
            (int(16 * (middle + r * np.cos(a))), int(16 * (140 * scale + 1.05 * r * np.sin(a))))
            for r, a in ((radius, angle), (radius + length, angle + 0.3 + sway))
        )
        cv2.line(alpha, begin, end, int(random.integers(90, 220)), 1, cv2.LINE_AA, 4)
        cv2.line(small, begin, end, (30, 50, 110), 2, cv2.LINE_AA, 4)
    return Cutout(np.asarray(small, np.uint8), np.maximum(alpha, 255 - clear))


def below(cutout: Cutout) -> Image:
    """Return the colours over black, and below them the alpha as grey."""
    grey = cv2.cvtColor(cutout.alpha, cv2.COLOR_GRAY2BGR)
    return np.vstack([cutout.over((0, 0, 0)), np.asarray(grey, np.uint8)])


def show_below(image: Image, page: Sequence[int]) -> NDArray[np.float32]:
    """Return what a client shows of a picture of `below`."""
    height = image.shape[0] // 2
    colour = image[:height].astype(np.float32)
    alpha = image[height:].mean(axis=2, keepdims=True) / 255
    shown = colour + np.asarray(page, np.float32) * (1 - alpha)
    return np.asarray(np.clip(shown, 0, 255), np.float32)


def show_key(
    image: Image, page: Sequence[int], similarity: float, smoothness: float
) -> NDArray[np.float32]:
    """Return what a client shows of a picture over the key colour."""
    weights = np.array([[0.5, -0.331264, -0.168736], [-0.081312, -0.418688, 0.5]], np.float32)
    key = np.asarray(KEY, np.float32)
    distance = np.linalg.norm((image.astype(np.float32) - key) @ weights.T, axis=2) / 255
    alpha = np.clip((distance - similarity) / smoothness, 0, 1)[..., None]
    # The colour in front: what is left without the key, without green that is over the others.
    colour = (image - key * (1 - alpha)) / np.maximum(alpha, 1 / 255)
    colour[..., 1] = np.minimum(colour[..., 1], np.maximum(colour[..., 0], colour[..., 2]))
    colour = np.clip(colour, 0, 255)
    return np.asarray(colour * alpha + np.asarray(page, np.float32) * (1 - alpha), np.float32)


def best_key(cutouts: Sequence[Cutout], decoded: Sequence[Image]) -> dict[str, float]:
    """Return the figures with the parameters that are best at the edge."""
    found = []
    grid = itertools.product((0.02, 0.05, 0.1, 0.15), (0.1, 0.2, 0.3, 0.4))
    for similarity, smoothness in grid:

        def show(
            image: Image, page: Sequence[int], a: float = similarity, b: float = smoothness
        ) -> NDArray[np.float32]:
            return show_key(image, page, a, b)

        figures = quality(cutouts[::10], decoded[::10], show)
        found.append(figures | {"similarity": similarity, "smoothness": smoothness})
    return max(found, key=lambda figures: figures["edge_psnr_db"])


def quality(cutouts: Sequence[Cutout], decoded: Sequence[Image], show: Show) -> dict[str, float]:
    """Return the PSNR of what is shown, at the edge and where the avatar is opaque."""
    errors: dict[str, list[float]] = {"edge_psnr_db": [], "opaque_psnr_db": []}
    for cutout, image in list(zip(cutouts, decoded, strict=True))[::5]:
        soft = ((cutout.alpha > 0) & (cutout.alpha < 255)).astype(np.uint8)
        edge = cv2.dilate(soft, np.ones((5, 5), np.uint8)) > 0
        parts = {"edge_psnr_db": edge, "opaque_psnr_db": (cutout.alpha == 255) & ~edge}
        for page in PAGES:
            squares = (show(image, page) - cutout.over(page)) ** 2
            for name, part in parts.items():
                errors[name].append(float(squares[part].mean()))
    return {
        name: round(10 * float(np.log10(255**2 / np.mean(found))), 2)
        for name, found in errors.items()
    }


def vp9(cutouts: Sequence[Cutout], wanted_db: float) -> dict[str, float]:
    """Return the figures of the lowest quality whose opaque pixels are as good as in H.264."""
    figures: dict[str, float] = {}
    for crf in reversed(_VP9_QUALITIES):
        file, seconds = _vp9_file(cutouts, crf)
        figures = {
            "crf": crf,
            "kbps": round(len(file) * 4 / 3 * 8 * video.FPS / len(cutouts) / 1000, 1),
            "encode_ms": round(seconds * 1000 / len(cutouts), 3),
            **quality(cutouts, _vp9_decoded(file), show_below),
        }
        if figures["opaque_psnr_db"] >= wanted_db:
            break
    return figures


def _vp9_file(cutouts: Sequence[Cutout], crf: int) -> tuple[bytes, float]:
    """Return a WebM file with the frames, and the CPU seconds of their encoding."""
    options = {
        **{"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"},
        **{"crf": str(crf), "b": "0", "threads": "1"},
    }
    out = io.BytesIO()
    with av.open(out, "w", "webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=video.FPS, options=options)
        stream.height, stream.width = cutouts[0].alpha.shape
        stream.pix_fmt, stream.codec_context.gop_size = "yuva420p", 2 * video.FPS
        began = time.process_time()
        for cutout in cutouts:
            height, width = cutout.alpha.shape
            planes = cv2.cvtColor(cutout.over((0, 0, 0)), cv2.COLOR_BGR2YUV_I420)
            frame = av.VideoFrame(width, height, "yuva420p")
            flat = planes.ravel()
            sizes = (height * width, height * width // 4, height * width // 4)
            parts = np.split(flat, np.cumsum(sizes)[:-1])
            shapes = ((height, width), *[(height // 2, width // 2)] * 2, (height, width))
            for plane, part, shape in zip(
                frame.planes, (*parts, cutout.alpha.ravel()), shapes, strict=True
            ):
                padded = np.zeros((shape[0], plane.line_size), np.uint8)
                padded[:, : shape[1]] = part.reshape(shape)
                plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        seconds = time.process_time() - began
    return out.getvalue(), seconds


def _vp9_decoded(file: bytes) -> list[Image]:
    """Return the frames of a file as pictures of `below`."""
    decoded = []
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.video[0]
        context = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own ignores alpha
        packets = [packet for packet in container.demux(stream) if packet.size]
        for frame in [frame for packet in packets for frame in context.decode(packet)]:
            assert frame.format.name == "yuva420p", frame.format.name
            planes = [
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
                for plane in frame.planes
            ]
            height, width = planes[0].shape
            flat = np.concatenate([plane.ravel() for plane in planes[:3]])
            colour = cv2.cvtColor(flat.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420)
            grey = cv2.cvtColor(np.ascontiguousarray(planes[3]), cv2.COLOR_GRAY2BGR)
            decoded.append(np.vstack([colour, grey]))
    return decoded


def _figures(files: Sequence[bytes], seconds: float) -> dict[str, float]:
    count = len(files)
    size = sum(-(-len(file) // 3) * 4 for file in files)
    return {
        "kbps": round(size * 8 * video.FPS / count / 1000, 1),
        "encode_ms": round(seconds * 1000 / count, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
