"""A small painter: smooth curves, soft fills and gradients on an image with anti-aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from avatar_training.visemes import Floats

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
Points = Sequence[tuple[float, float]]
_SUPERSAMPLE: Final = 2  # in addition to OpenCV's anti-aliased edges
_SHIFT: Final = 6  # fractional bits of OpenCV's fixed-point coordinates


def curve(points: Points, closed: bool = True, density: int = 8) -> Floats:
    """Return a Catmull-Rom spline through `points` as `(n, 2) float32`."""
    knots = np.asarray(points, np.float32)
    if closed:
        ring = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        ring = np.concatenate([knots[:1], knots, knots[-1:]])
    at = np.linspace(0, 1, density, endpoint=False, dtype=np.float32)[:, None, None]
    a, b, c, d = ring[:-3], ring[1:-2], ring[2:-1], ring[3:]
    spline = 0.5 * (
        2 * b + (c - a) * at + (2 * a - 5 * b + 4 * c - d) * at**2 + (3 * b - a - 3 * c + d) * at**3
    )
    dense = spline.transpose(1, 0, 2).reshape(-1, 2)
    return dense if closed else np.concatenate([dense, knots[-1:]])


def ellipse(x: float, y: float, rx: float, ry: float, count: int = 28) -> Floats:
    """Return an ellipse as `(count, 2) float32`."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class View:
    """The part of the frame that is painted, in frame pixels, and the size it is painted at."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Stencil:
    """Coverage in [0, 1] of a part of the canvas."""

    top: int
    left: int
    cover: Floats

    def within(self, top: int, left: int, height: int, width: int) -> Floats:
        """Return the coverage of another rectangle of the canvas."""
        out = np.zeros((height, width), np.float32)
        y1, x1 = max(top, self.top), max(left, self.left)
        y2 = min(top + height, self.top + self.cover.shape[0])
        x2 = min(left + width, self.left + self.cover.shape[1])
        if y1 < y2 and x1 < x2:
            out[y1 - top : y2 - top, x1 - left : x2 - left] = self.cover[
                y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left
            ]
        return out


class Painter:
    """Paints in frame coordinates onto a supersampled canvas."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._width = view.width * _SUPERSAMPLE
        self._height = view.height * _SUPERSAMPLE
        self._scale = np.array(
            [self._width / (view.x2 - view.x1), self._height / (view.y2 - view.y1)], np.float32
        )
        self._origin = np.array([view.x1, view.y1], np.float32)
        self._canvas = np.zeros((self._height, self._width, 3), np.float32)

    def backdrop(self, colours: Floats) -> None:
        """Cover the canvas with an image of the whole frame, `(h, w, 3)`, sampled bilinearly."""
        sx, sy = 1 / self._scale
        matrix = np.array(
            [[sx, 0, self._origin[0] + sx / 2 - 0.5], [0, sy, self._origin[1] + sy / 2 - 0.5]]
        )
        self._canvas = cv2.warpAffine(
            colours,
            matrix,
            (self._width, self._height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def stencil(self, shape: Floats, blur: float = 0.0) -> Stencil:
        """Return the coverage of a closed shape, its edge softened over `blur` frame pixels."""
        points = (shape - self._origin) * self._scale - 0.5
        sigma = blur * float(self._scale.mean())
        margin = int(2.5 * sigma) + 2
        low = np.floor(points.min(axis=0)).astype(int) - margin
        high = np.ceil(points.max(axis=0)).astype(int) + margin + 1
        left, top = max(int(low[0]), -margin), max(int(low[1]), -margin)
        right = min(int(high[0]), self._width + margin)
        bottom = min(int(high[1]), self._height + margin)
        if left >= right or top >= bottom:
            return Stencil(0, 0, np.zeros((0, 0), np.float32))
        cover = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.round((points - (left, top)) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, _SHIFT)
        smooth = cover.astype(np.float32) * (1 / 255)
        if sigma > 0.3:
            smooth = cv2.GaussianBlur(smooth, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        y, x = max(-top, 0), max(-left, 0)
        inside = smooth[y : max(self._height - top, y), x : max(self._width - left, x)]
        return Stencil(top + y, left + x, inside)

    def fill(
        self,
        shape: Floats,
        colour: Colour,
        alpha: float = 1.0,
        blur: float = 0.0,
        clip: Stencil | None = None,
        to: Colour | None = None,
    ) -> None:
        """Fill a closed shape; `to` makes a gradient from its top to its bottom."""
        stencil = self.stencil(shape, blur)
        height, width = stencil.cover.shape
        if not height or not width:
            return
        cover = stencil.cover * alpha
        if clip is not None:
            cover = cover * clip.within(stencil.top, stencil.left, height, width)
        paint: npt.NDArray[np.float32] = np.array(colour, np.float32)
        if to is not None:
            ends = (shape[:, 1].min(), shape[:, 1].max())
            rows = (np.arange(height) + stencil.top + 0.5) / self._scale[1] + self._origin[1]
            share = np.clip((rows - ends[0]) / max(ends[1] - ends[0], 1e-3), 0, 1)
            share = share.astype(np.float32)[:, None, None]
            paint = paint + (np.array(to, np.float32) - paint) * share
        area = self._canvas[stencil.top : stencil.top + height, stencil.left : stencil.left + width]
        area += (paint - area) * cover[..., None]

    def stroke(
        self,
        line: Floats,
        colour: Colour,
        width: Sequence[float],
        alpha: float = 1.0,
        blur: float = 0.0,
        clip: Stencil | None = None,
    ) -> None:
        """Draw a line whose width (frame pixels) follows the values of `width`."""
        tangent = np.gradient(line, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        at = np.linspace(0, 1, len(line))
        half = np.interp(at, np.linspace(0, 1, len(width)), width)[:, None] / 2
        shape = np.concatenate([line + normal * half, (line - normal * half)[::-1]])
        self.fill(shape.astype(np.float32), colour, alpha, blur, clip)

    def picture(self) -> npt.NDArray[np.uint8]:
        """Return the image as `(height, width, 3) uint8`, BGR."""
        small = cv2.resize(
            self._canvas, (self._view.width, self._view.height), interpolation=cv2.INTER_AREA
        )
        return np.asarray(np.clip(np.rint(small[..., ::-1]), 0, 255), np.uint8)
