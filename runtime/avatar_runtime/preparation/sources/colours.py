"""Colours: from any decoded frame to 8-bit BGR in full range with the primaries of sRGB."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)

from avatar_runtime.preparation.sources import colour_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSPECIFIED: Final = 2  # AVCOL_SPC_UNSPECIFIED, AVCOL_TRC_UNSPECIFIED, AVCOL_PRI_UNSPECIFIED
_RGB: Final = 0  # AVCOL_SPC_RGB
_HDR_TRANSFERS: Final = frozenset({int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)})
_WIDE_PRIMARIES: Final = frozenset(
    int(primaries)
    for primaries in (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)
)
# Players take an untagged picture of more than 1279 columns or 576 rows for BT.709.
_HD_WIDTH: Final = 1280
_SD_HEIGHT: Final = 576
# Without accurate rounding swscale is off by up to 3 levels, with it by up to 2.
_EXACT: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_STRIP_ROWS: Final = 16  # rows that are flattened at once: 16 bits a value stay in the cache
_BACKGROUND: Final = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True, slots=True)
class Colours:
    """How the colours of a frame are read; equal frames have equal `Colours`."""

    matrix: int
    """`AVColorSpace` by which luma and chroma become red, green and blue."""
    full_range: bool
    transfer: int
    """`AVColorTransferCharacteristic`, 2 if unspecified."""
    primaries: int
    """`AVColorPrimaries`, 2 if unspecified."""
    alpha: bool
    guessed: bool = False
    """Whether the file does not tell the matrix."""

    @property
    def tone_mapped(self) -> bool:
        """Whether the brightness range is that of HDR."""
        return self.transfer in _HDR_TRANSFERS

    @property
    def wide(self) -> bool:
        """Whether some colours lie outside sRGB."""
        return self.primaries in _WIDE_PRIMARIES

    @property
    def mapped_transfer(self) -> int:
        """The transfer that the colours are converted to.

        Without HDR it stays, as in players: BT.709's own would darken greys.
        """
        return int(ColorTrc.IEC61966_2_1) if self.tone_mapped else self.transfer

    def notes(self) -> list[str]:
        """Return one sentence for each conversion that changes how the picture looks."""
        said = []
        if self.tone_mapped:
            said.append("the source is HDR; its brightness is mapped to that of a normal screen")
        elif self.wide:
            said.append("the source has a wide colour range; its colours are converted to sRGB")
        return said


def read(frame: Any) -> Colours:
    """Return how the colours of a decoded `av.VideoFrame` are to be read."""
    layout = frame.format
    rgb = layout.is_rgb or layout.has_palette
    matrix = _RGB if rgb else int(frame.colorspace)
    guessed = not rgb and matrix in (_RGB, _UNSPECIFIED)
    if guessed:
        matrix = guess_matrix(frame.width, frame.height, layout.name)
    return Colours(
        matrix=matrix,
        full_range=rgb or int(frame.color_range) == ColorRange.JPEG or layout.name[:4] == "yuvj",
        transfer=int(frame.color_trc),
        primaries=int(frame.color_primaries),
        alpha=layout.has_palette or any(part.is_alpha for part in layout.components),
        guessed=guessed,
    )


def transparent(frame: Any) -> bool:
    """Return whether a decoded `av.VideoFrame` has a pixel that is not opaque."""
    if not read(frame).alpha:
        return False
    return bool((frame.to_ndarray(format="bgra")[..., 3] < 255).any())


def guess_matrix(width: int, height: int, pixel_format: str) -> int:
    """Return the matrix of an untagged picture, as players guess it; JPEG is always BT.601."""
    large = width >= _HD_WIDTH or height > _SD_HEIGHT
    if large and not pixel_format.startswith("yuvj"):
        return int(Colorspace.ITU709)
    return int(Colorspace.ITU601)


def parse_background(text: str) -> tuple[int, int, int] | None:
    """Return `#rrggbb` as (blue, green, red), black for "", and `None` for anything else."""
    if not text:
        return (0, 0, 0)
    if not _BACKGROUND.fullmatch(text):
        return None
    return (int(text[5:7], 16), int(text[3:5], 16), int(text[1:3], 16))


class Converter:
    """Converts frames; keeps the tables of swscale, so that frames of one kind are fast."""

    def __init__(self, background: tuple[int, int, int]) -> None:
        """`background` is the (blue, green, red) under transparent pixels."""
        self._background = background
        self._scaler = VideoReformatter()
        self._reformatter = VideoReformatter()
        self._table: tuple[Any, colour_table.ColourTable] | None = None

    def convert(self, frame: Any, width: int, height: int) -> NDArray[np.uint8]:
        """Return the frame as `(height, width, 3) uint8` BGR, scaled to this size.

        Raises:
            av.error.FFmpegError: swscale does not support the pixel format or the colours.
        """
        colours = read(frame)
        options: dict[str, Any] = {"src_color_range": ColorRange.MPEG}
        if colours.full_range:
            options["src_color_range"] = ColorRange.JPEG
        if colours.guessed:
            frame.colorspace = colours.matrix
        if colours.tone_mapped or colours.wide:
            if not colours.alpha:
                return self._mapped(frame, colours, width, height, options)
            # swscale maps the colours of what has alpha, which costs 25 ns a pixel: after scaling.
            if frame.width * frame.height > width * height:
                frame = self._scaler.reformat(
                    frame, width=width, height=height, interpolation=_EXACT, threads=1
                )
            options["dst_color_trc"] = colours.mapped_transfer
            options["dst_color_primaries"] = ColorPrimaries.BT709
        made = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="bgra" if colours.alpha else "bgr24",
            dst_colorspace=Colorspace.DEFAULT,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
            threads=1,
            **options,
        )
        picture: Any = made.to_ndarray()
        result: NDArray[np.uint8] = self._flatten(picture) if colours.alpha else picture
        return result

    def _mapped(
        self, frame: Any, colours: Colours, width: int, height: int, options: dict[str, Any]
    ) -> NDArray[np.uint8]:
        """Return an opaque frame with HDR or wide colours; they are mapped after scaling."""
        planes = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=colour_table.FORMAT,
            dst_colorspace=Colorspace.DEFAULT,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
            threads=1,
            **options,
        )
        key = (colours.transfer, colours.primaries, colours.mapped_transfer, (width, height))
        if self._table is None or self._table[0] != key:
            self._table = (key, colour_table.ColourTable(*key))
        return self._table[1].convert(planes)

    def _flatten(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `(h, w, 4)` with straight alpha over the background, rounded to nearest."""
        flat = np.empty((*picture.shape[:2], 3), np.uint8)
        for top in range(0, picture.shape[0], _STRIP_ROWS):
            strip = picture[top : top + _STRIP_ROWS]
            alpha = cv2.cvtColor(np.ascontiguousarray(strip[..., 3]), cv2.COLOR_GRAY2BGR)
            colour = cv2.cvtColor(strip, cv2.COLOR_BGRA2BGR)
            mixed = cv2.multiply(colour, alpha, dtype=cv2.CV_16U)
            if any(self._background):
                below = cv2.multiply(~alpha, (*self._background, 0), dtype=cv2.CV_16U)
                mixed = cv2.add(mixed, below)
            flat[top : top + _STRIP_ROWS] = cv2.convertScaleAbs(mixed, alpha=1 / 255)
        return flat
