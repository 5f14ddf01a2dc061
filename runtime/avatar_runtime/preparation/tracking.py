"""Follows one person through a clip and steadies the face boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.avatars.geometry import Box

REACH_WIDTHS: Final = 1.0
"""Distance between the faces of two frames, in face widths, up to which they are one person."""
REACH_GROWTH: Final = 0.2
"""Face widths that are added for each frame without the person."""
LOST_FRAMES: Final = 25
"""Frames without the person after which the largest face is followed instead: 1 s at 25 fps."""
SMOOTHING: Final = 1.0
"""Standard deviation of the default Gaussian over time, frames: docs/avatars.md has figures."""
_TRUNCATE: Final = 3.0  # standard deviations of the kernel on each side


@dataclass(frozen=True, slots=True)
class Track:
    """Where the followed person was last seen."""

    box: Box | None = None
    missed: int = 0
    """Frames since then."""

    def follow(self, boxes: Sequence[Box]) -> tuple[int | None, Track]:
        """Return the index of the person's face among `boxes`, and the track after the frame.

        `boxes` are those of the detector, the largest first. The first face of a clip is the
        largest one; later the nearest one in reach is the same person.
        """
        if self.box is None or self.missed >= LOST_FRAMES:
            return (0, Track(boxes[0])) if boxes else (None, self)
        reach = self.box.width * (REACH_WIDTHS + REACH_GROWTH * self.missed)
        distances = [_distance(self.box, box) for box in boxes]
        nearest = min(range(len(boxes)), key=distances.__getitem__, default=None)
        if nearest is None or distances[nearest] > reach:
            return None, Track(self.box, self.missed + 1)
        return nearest, Track(boxes[nearest])


def nearest_valid(valid: Sequence[bool]) -> list[int]:
    """Return for each frame the index of the nearest valid one; the earlier one of two.

    At least one frame must be valid.
    """
    known = np.flatnonzero(np.asarray(valid, bool))
    frames = np.arange(len(valid))
    after = np.searchsorted(known, frames)
    right = known[np.minimum(after, len(known) - 1)]
    left = known[np.maximum(after - 1, 0)]
    take_left = np.abs(frames - left) <= np.abs(right - frames)
    return [int(i) for i in np.where(take_left, left, right)]


def smooth(
    boxes: NDArray[np.float64], valid: Sequence[bool], breaks: Sequence[int], sigma: float
) -> NDArray[np.float64]:
    """Return `(n, 4) float64` boxes, filtered over time with a Gaussian of `sigma` frames.

    The filter is symmetric, so that boxes do not lag behind a movement. It never mixes frames
    across a frame of `breaks` (a jump) or across an invalid frame, whose box is returned as it
    is. `sigma` 0 returns the boxes unchanged, as MuseTalk uses them.
    """
    result = boxes.astype(np.float64)
    if sigma <= 0:
        return result
    starts = set(breaks)
    begin = 0
    for i in range(len(boxes) + 1):
        if i == len(boxes) or not valid[i] or i in starts:
            result[begin:i] = _filtered(boxes[begin:i].astype(np.float64), sigma)
            begin = i + 1 if i < len(boxes) and not valid[i] else i
    return result


def _filtered(run: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Filter one run; at its ends the run is continued by point reflection, which keeps slopes."""
    radius = min(math.ceil(_TRUNCATE * sigma), len(run) - 1)
    if radius < 1:
        return run
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(run, ((radius, radius), (0, 0)), "reflect", reflect_type="odd")
    columns = [np.convolve(padded[:, c], kernel, "valid") for c in range(run.shape[1])]
    return np.stack(columns, axis=1)


def _distance(one: Box, two: Box) -> float:
    return math.hypot(
        (one.x1 + one.x2 - two.x1 - two.x2) / 2, (one.y1 + one.y2 - two.y1 - two.y2) / 2
    )
