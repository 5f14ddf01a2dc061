"""The data that all parts of a drawing share: identity, pose, and painter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avatar_training.posing import Mouth, Pose, to_frame

if TYPE_CHECKING:
    from avatar_training.identities import Identity
    from avatar_training.painting import Colour, Painter
    from avatar_training.visemes import Floats


@dataclass(frozen=True, slots=True)
class Sketch:
    """One drawing in progress."""

    who: Identity
    pose: Pose
    mouth: Mouth
    paint: Painter

    def at(self, points: Floats, depth: float = 0.0, body: bool = False) -> Floats:
        """Map face units to the frame; near features shift more when the head turns."""
        pose = self.pose
        if body:
            pose = Pose(dx=pose.dx * 0.25, dy=pose.dy * 0.2)
        slide = np.array([0.0 if body else pose.yaw * depth, 0.0], np.float32)
        return to_frame(points + slide, pose)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour that lies `share` of the way from `a` to `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return (red, green, blue)
