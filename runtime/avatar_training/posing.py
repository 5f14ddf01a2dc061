"""The geometry of the head: poses, the face box, and the regions that a mouth can move.

Face coordinates have their origin at the bridge of the nose's lower end (landmark 29, where
MuseTalk's lower half begins), y downwards, and the jaw at x = +-88.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

from avatar_training.painting import curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_training.visemes import Floats

FRAME: Final = 384
"""Side of the square frame in pixels."""
_UNIT: Final = 0.82  # frame pixels per face unit
_CENTRE: Final = (FRAME / 2, FRAME * 0.47)
_JAW_HALF: Final = 88.0
CHIN: Final = 106.0
JAW_DROP: Final = 3.0
"""Face units by which the chin drops; the cheeks do not move."""
_EXTRA_MARGIN: Final = 10  # MuseTalk v1.5, pixels
MOUTH_Y: Final = 59.0
MOUTH_DEPTH: Final = 6.0


@dataclass(frozen=True, slots=True)
class Pose:
    """The position of the head, and everything that moves except the mouth."""

    dx: float = 0.0
    dy: float = 0.0
    """Shift in face units."""
    tilt: float = 0.0
    """Degrees."""
    yaw: float = 0.0
    """Turn in [-1, 1]: it shifts the features over the head."""
    blink: float = 0.0
    """0 open, 1 closed."""
    brows: float = 0.0
    """Raised by this share, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Mouth:
    """The five parameters of `visemes.MOUTH`, each in [0, 1]."""

    open: float = 0.0
    wide: float = 0.5
    round: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0


Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in frame pixels."""


def swaying(count: int) -> list[Pose]:
    """Return the poses of a loop that is played forward and backward without a jump.

    All speeds are zero at both ends. The blink is at the last frame, where the playback reverses,
    so each cycle has one blink.
    """
    poses = []
    for index in range(count):
        at = index / (count - 1)
        swing = -np.cos(np.pi * at)
        closing = np.clip(1 - (count - 1 - index) / 3.5, 0, 1)
        poses.append(
            Pose(
                dx=2.6 * swing,
                dy=1.2 * float(np.cos(2 * np.pi * at)),
                tilt=1.1 * swing,
                yaw=0.55 * float(-np.cos(np.pi * at)),
                blink=float(closing),
                brows=0.35 * float(np.sin(np.pi * at) ** 2),
            )
        )
    return poses


def face_box(pose: Pose) -> Box:
    """Return MuseTalk v1.5's face box of a resting face: symmetrical about landmark 29."""
    points = to_frame(outline(1.0, 0.0), pose)
    (x1, _), (x2, bottom) = points.min(axis=0), points.max(axis=0)
    nose = float(to_frame(np.zeros((1, 2), np.float32), pose)[0, 1])
    top = max(0.0, 2 * nose - bottom)
    return (round(x1), round(top), round(x2), min(round(bottom) + _EXTRA_MARGIN, FRAME))


def moving_region(pose: Pose) -> npt.NDArray[np.uint8]:
    """Return the region that a mouth can move, with a margin for the soft edge of a mask.

    The result is a frame-sized mask, 0 or 255. The cheeks keep the pixels of the source.
    """
    right = [
        (0, 6), (30, 8), (48, 20), (60, 34), (68, 52), (72, 70), (73, 84), (66, 98), (52, 110),
        (30, 118),
    ]  # fmt: skip
    return _filled([*right, (0, 121)], pose)


def redrawn_region(pose: Pose) -> npt.NDArray[np.uint8]:
    """Return the region of a drawn mouth in an avatar's mask: the lips and the skin around them.

    The result is a frame-sized mask, 0 or 255. The chin keeps the pixels of the source although it
    drops a little with the opening: redrawn, it flickered more than it moved.
    """
    right = [
        (0, 12), (24, 13.5), (38.4, 22.7), (48, 33.4), (54.4, 47.2), (57.6, 61), (58.4, 71.7),
        (52.8, 82.4), (41.6, 91.6), (24, 97.7),
    ]  # fmt: skip
    return _filled([*right, (0, 100)], pose)


def _filled(right: Sequence[tuple[float, float]], pose: Pose) -> npt.NDArray[np.uint8]:
    """Return a frame-sized mask of a shape that is the same left and right, from top to bottom."""
    around = curve([*right, *[(-x, y) for x, y in reversed(right[1:-1])]])
    slide = np.array([pose.yaw * MOUTH_DEPTH, 0.0], np.float32)
    region = np.zeros((FRAME, FRAME), np.uint8)
    cv2.fillPoly(region, [np.round(to_frame(around + slide, pose)).astype(np.int32)], 255)
    return region


def to_frame(points: Floats, pose: Pose) -> Floats:
    angle = np.deg2rad(pose.tilt)
    # The head rotates around the neck, below the chin.
    pivot = np.array([0.0, 120.0], np.float32)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32
    )
    moved = (points - pivot) @ turn.T + pivot + np.array([pose.dx, pose.dy], np.float32)
    return (moved * _UNIT + np.array(_CENTRE, np.float32)).astype(np.float32)


def outline(jaw: float, drop: float) -> Floats:
    chin = CHIN + JAW_DROP * drop
    right = [
        (0, -128), (40, -122), (68, -98), (84, -58), (_JAW_HALF, -14), (84, 24),
        (72 * (0.6 + 0.4 * jaw), 56), (48 * jaw, 88), (22 * jaw, chin - 3),
    ]  # fmt: skip
    left = [(-x, y) for x, y in reversed(right[1:])]
    return curve([*right, (0, chin), *left])
