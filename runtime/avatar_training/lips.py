"""The mouth of the drawing: lips, teeth, tongue and the dark area behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_training.painting import curve, ellipse
from avatar_training.posing import MOUTH_DEPTH, MOUTH_Y
from avatar_training.sketch import Sketch, mix

if TYPE_CHECKING:
    from avatar_training.painting import Stencil


def lips(sketch: Sketch, skin: Stencil) -> None:
    """Paint the mouth, inside and outside."""
    who, paint, m = sketch.who, sketch.paint, sketch.mouth
    y, depth = MOUTH_Y, MOUTH_DEPTH
    half = 28.0 + 13.0 * (m.wide - 0.5) - 11.0 * m.round + 1.5 * m.open
    gap = 29.0 * m.open + 2.2 * m.teeth
    up, down = 0.24 * gap, 0.76 * gap
    thick_up = 6.2 + 2.0 * m.round - 1.2 * m.open
    thick_low = 8.6 + 2.2 * m.round - 1.4 * m.open
    smile = 2.2 * (1 - m.round) * (1 - 0.5 * m.open) + 2.0 * max(m.wide - 0.5, 0)
    corner = y - smile

    # Folds from the nose to the corners deepen with a wide mouth.
    for side in (-1, 1):
        fold = curve(
            [(side * 22, 24), (side * (half + 9), 42), (side * (half + 11), corner + 6)], False
        )
        paint.stroke(
            sketch.at(fold, depth), who.skin_shade, (1, 4, 1), 0.12 + 0.26 * m.wide, 2.6, skin
        )
    below = ellipse(0, y + down + thick_low + 5, half * 0.62, 4.5)
    paint.fill(sketch.at(below, depth), who.skin_shade, 0.55, 3.2, skin)
    philtrum = curve([(-3.5, 34), (3.5, 34), (5, y - up - thick_up), (-5, y - up - thick_up)])
    paint.fill(sketch.at(philtrum, depth), who.skin_shade, 0.3, 1.8, skin)

    inner_half = half - 2.5
    top = [(-inner_half, corner), (-inner_half * 0.5, y - up), (0, y - up + 0.6),
           (inner_half * 0.5, y - up), (inner_half, corner)]  # fmt: skip
    low = [(inner_half * 0.58, y + 0.82 * down), (0, y + down + 0.8),
           (-inner_half * 0.58, y + 0.82 * down)]  # fmt: skip
    lips = curve(
        [(-half, corner), (-half * 0.52, y - up - thick_up * 0.72), (-6, y - up - thick_up),
         (0, y - up - thick_up * 0.72), (6, y - up - thick_up),
         (half * 0.52, y - up - thick_up * 0.72), (half, corner),
         (half * 0.58, y + 0.84 * down + thick_low * 0.74), (0, y + down + thick_low),
         (-half * 0.58, y + 0.84 * down + thick_low * 0.74)]
    )  # fmt: skip
    paint.fill(sketch.at(lips, depth), who.lips, 1, 0.5, skin, mix(who.lips, who.lips_light, 0.7))
    shine = ellipse(-3, y + down + thick_low * 0.52, half * 0.42, thick_low * 0.24)
    paint.fill(sketch.at(shine, depth), mix(who.lips_light, (255, 255, 255), 0.5), 0.6, 1.5)
    arch = curve([(-half * 0.5, y - up - thick_up * 0.95), (-6, y - up - thick_up - 1.2),
                  (0, y - up - thick_up * 0.85), (6, y - up - thick_up - 1.2),
                  (half * 0.5, y - up - thick_up * 0.95)], False)  # fmt: skip
    paint.stroke(sketch.at(arch, depth), who.skin_light, (0.5, 1.6, 0.5), 0.5, 0.8, skin)

    cave = sketch.at(curve([*top, *low]), depth)
    inside = paint.stencil(cave, 0.35)
    paint.fill(cave, (66, 20, 26), 1, 0.35, None, (104, 36, 40))
    if gap > 1.5:
        _inner_mouth(sketch, inside, gap, up, down, inner_half, depth)
    dark = mix(who.lips, (50, 10, 14), 0.65)
    seam_top = curve(top, closed=False)
    paint.stroke(sketch.at(seam_top, depth), dark, (0.6, 2.0, 0.6), 0.75, 0.5)
    for side in (-1, 1):
        paint.fill(sketch.at(ellipse(side * half, corner, 2.6, 2.0), depth), dark, 0.6, 1.3, skin)


def _inner_mouth(
    sketch: Sketch, inside: Stencil, gap: float, up: float, down: float, half: float, depth: float
) -> None:
    paint, m, y = sketch.paint, sketch.mouth, MOUTH_Y
    rise = 4 + 0.42 * gap * m.tongue + 0.2 * gap
    tongue = ellipse(0, y + down + 4, half * 0.62, rise + 4)
    if m.open > 0.08:
        paint.fill(
            sketch.at(tongue, depth), (206, 104, 104), min(1.0, 0.45 + m.tongue), 1.2, inside,
            (160, 66, 72),
        )  # fmt: skip
        groove = curve([(0, y + down - rise + 4), (0, y + down + 2)], closed=False)
        paint.stroke(sketch.at(groove, depth), (150, 60, 66), (1, 2), 0.5, 1.0, inside)
    tall = min(3.0 + 6.0 * m.teeth, gap)
    teeth = curve(
        [(-half * 0.72, y - up - 3), (half * 0.72, y - up - 3),
         (half * 0.66, y - up + tall * 0.8),
         (half * 0.3, y - up + tall), (-half * 0.3, y - up + tall),
         (-half * 0.66, y - up + tall * 0.8)]
    )  # fmt: skip
    shown = min(1.0, 1.4 * m.teeth + 0.25 * m.open)
    paint.fill(sketch.at(teeth, depth), (214, 206, 198), shown, 0.6, inside, (252, 248, 240))
    if m.teeth > 0.3:
        row = curve(
            [(-half * 0.5, y + down + 2), (half * 0.5, y + down + 2),
             (half * 0.42, y + down - gap * 0.28), (-half * 0.42, y + down - gap * 0.28)]
        )  # fmt: skip
        paint.fill(sketch.at(row, depth), (226, 218, 208), (m.teeth - 0.3) * 0.9, 0.6, inside)
    # The upper lip casts a shadow on the inside of the mouth.
    shade = curve(
        [(-half, y - up - 4), (half, y - up - 4), (half, y - up + 2), (-half, y - up + 2)]
    )
    paint.fill(sketch.at(shade, depth), (50, 14, 18), 0.5, 1.6, inside)
