"""Applies the colour conversion of swscale by a table, at a quarter of its cost.

swscale converts HDR and wide colours pixel by pixel in plain C, 25 ns each. Its own conversion is a
table of 65 x 65 x 65 colours with tetrahedral interpolation, so a table of that size, filled by
swscale once, gives the same colours within 1 of 255 levels. FFmpeg's filter `lut3d` applies it.
"""

from __future__ import annotations

import functools
import tempfile
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import av.filter
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, VideoReformatter

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE: Final = 65
"""Colours along each axis, as in swscale (`INPUT_LUT_SIZE` in libswscale/cms.h)."""
FORMAT: Final = "gbrp16le"
"""Pixel format of the frames that a table takes and gives."""
_BYTE: Final = (255 * 256, 128)
"""Factor and offset with which the upper byte of 16 bits is the value, rounded to 8 bits."""
_TOP: Final = 65535
_RGB: Final = 0  # AVCOL_SPC_RGB
_STEP: Final = Fraction(1, 25)  # any clock serves: the filter needs increasing time stamps


class ColourTable:
    """Converts frames of one size from one kind of colours to those of sRGB."""

    def __init__(
        self, transfer: int, primaries: int, to_transfer: int, size: tuple[int, int]
    ) -> None:
        """`transfer` and `primaries` are those of the frames, `size` is their width and height.

        Raises:
            av.error.FFmpegError: swscale does not support the colours.
        """
        self._graph: Any = av.filter.Graph()
        self._graph.threads = 1
        self._source = self._graph.add_buffer(
            width=size[0], height=size[1], format=av.VideoFormat(FORMAT, *size), time_base=_STEP
        )
        self._sink = self._graph.add("buffersink")
        self._count = 0
        with tempfile.NamedTemporaryFile(suffix=".cube") as file:
            file.write(_cube(transfer, primaries, to_transfer))
            file.flush()
            table = self._graph.add("lut3d", file=file.name, interp="tetrahedral")
            self._graph.link_nodes(self._source, table, self._sink)
            self._graph.configure()  # reads the file

    def convert(self, frame: Any) -> NDArray[np.uint8]:
        """Return a frame in `FORMAT` with its colours converted, `(h, w, 3) uint8` BGR."""
        frame.pts, frame.time_base = self._count, _STEP
        self._count += 1
        self._source.push(frame)
        made: Any = self._sink.pull()
        # The planes are green, blue and red; the second byte of each value is the upper one.
        planes = [
            np.frombuffer(plane, np.uint8).reshape(made.height, -1, 2)[:, : made.width]
            for plane in made.planes
        ]
        picture = np.empty((made.height, made.width, 3), np.uint8)
        cv2.mixChannels(planes, [picture], [3, 0, 1, 1, 5, 2])
        return picture


@functools.lru_cache(maxsize=2)
def _cube(transfer: int, primaries: int, to_transfer: int) -> bytes:
    """Return the table as a file of the format `cube`: the lines have red, green and blue."""
    axis = np.rint(np.linspace(0, _TOP, SIDE)).astype(np.uint16)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red changes fastest
    grid = av.VideoFrame(SIDE, SIDE * SIDE, FORMAT)
    for plane, values in zip(grid.planes, (green, blue, red), strict=True):
        rows = np.zeros((SIDE * SIDE, plane.line_size // 2), np.uint16)
        rows[:, :SIDE] = values.reshape(-1, SIDE)
        plane.update(rows.tobytes())
    grid.color_trc, grid.color_primaries = transfer, primaries
    grid.colorspace, grid.color_range = _RGB, ColorRange.JPEG
    made: Any = VideoReformatter().reformat(
        grid,
        format=FORMAT,
        dst_colorspace=Colorspace.DEFAULT,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
        dst_color_trc=to_transfer,
        dst_color_primaries=ColorPrimaries.BT709,
        threads=1,
    )
    green, blue, red = (
        np.frombuffer(plane, np.uint16).reshape(made.height, -1)[:, :SIDE] for plane in made.planes
    )
    factor, offset = _BYTE
    colours = np.stack([red, green, blue], axis=-1).reshape(-1, 3) / _TOP
    colours = (colours * factor + offset) / _TOP
    lines = [f"LUT_3D_SIZE {SIDE}", *map("%.6f %.6f %.6f".__mod__, map(tuple, colours.tolist()))]
    return "\n".join(lines).encode() + b"\n"
