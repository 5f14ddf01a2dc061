"""The eyes and the brows of the drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_training.painting import curve, ellipse
from avatar_training.sketch import Sketch, mix

if TYPE_CHECKING:
    from avatar_training.painting import Stencil


def eye(sketch: Sketch, side: int, skin: Stencil) -> None:
    """Paint the eye of a side, -1 or 1."""
    who, paint, depth = sketch.who, sketch.paint, 6.0
    x, y, closed = side * 38.0, -38.0, sketch.pose.blink
    lift = 11.0 * (1 - closed)
    inner, outer = x - side * 19, x + side * 20
    upper = [(inner, y + 4), (x - side * 8, y + 4 - lift), (x + side * 6, y + 3.4 - lift),
             (outer, y + 1)]  # fmt: skip
    lower = [(x + side * 10, y + 8), (x - side * 6, y + 8.6)]
    opening = sketch.at(curve([*upper, *lower]), depth)
    lid = curve([*upper, (x + side * 16, y - 13), (x, y - 17), (x - side * 14, y - 11)])
    paint.fill(sketch.at(lid, depth), mix(who.skin, who.skin_shade, 0.35), 0.8, 1.5, skin)
    if closed < 0.97:
        white = paint.stencil(opening, 0.4)
        paint.fill(opening, (226, 224, 226), 1, 0.4, None, (250, 249, 248))
        gaze = x + 2.0 * sketch.pose.yaw
        paint.fill(
            sketch.at(ellipse(gaze, y - 1, 10.4, 10.4), depth),
            mix(who.iris, (0, 0, 0), 0.55),
            1,
            0.4,
            white,
        )
        paint.fill(
            sketch.at(ellipse(gaze, y - 0.6, 9.0, 9.0), depth),
            mix(who.iris, (0, 0, 0), 0.25), 1,
            0.6, white, mix(who.iris, (255, 255, 255), 0.35),
        )  # fmt: skip
        paint.fill(sketch.at(ellipse(gaze, y - 1, 4.6, 4.6), depth), (14, 10, 12), 1, 0.4, white)
        paint.fill(
            sketch.at(ellipse(gaze - 3.6, y - 5, 2.7, 2.4), depth),
            (255, 255, 255),
            0.95,
            0.3,
            white,
        )
        paint.fill(
            sketch.at(ellipse(gaze + 3.4, y + 3.4, 1.6, 1.3), depth),
            (255, 255, 255),
            0.5,
            0.4,
            white,
        )
        shadow = curve([*upper, (outer, y - 4), (x, y - 4 - lift), (inner, y)])
        paint.fill(sketch.at(shadow, depth), (70, 50, 54), 0.4, 1.8, white)
    lash = curve([*upper, (outer + side * 4, y - 2)], closed=False)
    width = (1.0, 3.2, 3.6, 2.4) if who.cut != "short" else (0.8, 2.4, 2.6, 1.0)
    paint.stroke(sketch.at(lash, depth), mix(who.hair, (24, 14, 14), 0.7), width, 0.95, 0.4)
    under = curve([(outer, y + 2), *lower, (inner, y + 5)], closed=False)
    paint.stroke(
        sketch.at(under, depth), mix(who.skin_shade, (60, 30, 30), 0.4), (1.2, 1, 0.6), 0.5, 0.6
    )
    crease = curve(
        [(inner + side * 3, y - 4), (x, y - 13 + 3 * closed), (outer - side * 2, y - 7)], False
    )
    paint.stroke(sketch.at(crease, depth), who.skin_shade, (0.6, 1.8, 0.8), 0.7, 0.8, skin)


def brow(sketch: Sketch, side: int) -> None:
    """Paint the brow of a side, -1 or 1."""
    who = sketch.who
    x, y = side * 40.0, -66.0 - 5.0 * sketch.pose.brows
    line = curve(
        [
            (x - side * 22, y + 5),
            (x - side * 6, y - 1),
            (x + side * 10, y - 2),
            (x + side * 26, y + 6),
        ],
        closed=False,
    )
    colour = mix(who.hair, (20, 14, 12), 0.25)
    sketch.paint.stroke(
        sketch.at(line, 6), colour, (who.brow * 0.7, who.brow, who.brow * 0.8, 1.2), 0.85, 0.9
    )
