"""The hair of the drawing, behind and in front of the face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avatar_training.painting import curve
from avatar_training.sketch import Sketch, mix

if TYPE_CHECKING:
    from avatar_training.painting import Stencil


def back_hair(sketch: Sketch) -> None:
    """Paint the hair behind the head."""
    who = sketch.who
    if who.cut == "short":
        return
    low = 190.0 if who.cut == "long" else 84.0
    wide = 112.0 if who.cut == "long" else 110.0
    right = [
        (0, -158), (56, -148), (94, -112), (108, -50), (wide, 10), (wide + 2, low * 0.55),
        (wide - 4, low), (60, low + 8),
    ]  # fmt: skip
    shape = curve([*right, *[(-x, y) for x, y in reversed(right[1:])]])
    sketch.paint.fill(sketch.at(shape), who.hair, to=mix(who.hair, (0, 0, 0), 0.35))
    for side in (-1, 1):
        for x in (94, 102):
            line = curve([(side * (x - 8), -60), (side * x, 10), (side * (x + 2), low - 20)], False)
            sketch.paint.stroke(sketch.at(line), who.hair_light, (1, 5, 1), alpha=0.35, blur=1.6)


def front_hair(sketch: Sketch, skin: Stencil) -> None:
    """Paint the hair on the head, and its shadow on the skin."""
    who, paint = sketch.who, sketch.paint
    if who.cut == "long":
        shapes = [
            [(-18, -150), (-70, -136), (-102, -88), (-108, -20), (-104, 60), (-92, 64),
             (-88, 0), (-78, -50), (-46, -92), (-14, -122)],
            [(-18, -150), (40, -152), (86, -122), (106, -70), (108, -10), (104, 64), (92, 66),
             (88, 2), (82, -46), (56, -92), (18, -116), (-14, -122)],
        ]  # fmt: skip
    elif who.cut == "bob":
        shapes = [
            [(0, -158), (-60, -146), (-98, -104), (-108, -40), (-108, 40), (-98, 72), (-84, 66),
             (-80, 10), (-76, -42), (-70, -66), (-30, -70), (0, -69), (30, -70), (70, -66),
             (76, -42), (80, 10), (84, 66), (98, 72), (108, 40), (108, -40), (98, -104),
             (60, -146)],
        ]  # fmt: skip
    else:
        shapes = [
            [(0, -152), (48, -146), (82, -120), (97, -74), (92, -26), (85, -30), (82, -62),
             (64, -92), (30, -104), (-6, -100), (-40, -106), (-68, -88), (-82, -60),
             (-85, -30), (-92, -26), (-97, -74), (-82, -120), (-48, -146)],
        ]  # fmt: skip
    for points in shapes:
        shape = sketch.at(curve(points))
        lowered = shape + np.array([1.5, 3.5], np.float32)
        paint.fill(lowered, mix(who.skin_shade, (30, 10, 10), 0.4), 0.5, 4, skin)
        cover = paint.stencil(shape)
        paint.fill(shape, who.hair, 1, 0.5, None, mix(who.hair, (0, 0, 0), 0.2))
        glow = curve([(-84, -72), (-58, -112), (-16, -132), (34, -128), (70, -104)], closed=False)
        paint.stroke(sketch.at(glow), who.hair_light, (3, 16, 20, 12, 2), 0.5, 6, cover)
        _strands(sketch, cover)


def _strands(sketch: Sketch, cover: Stencil) -> None:
    who, paint = sketch.who, sketch.paint
    for index in range(9):
        at = (index - 4) / 4
        root = (-14 + 10 * at, -150)
        if who.cut == "short":
            line = [root, (at * 62, -136 + 12 * abs(at)), (at * 92, -96 + 40 * abs(at))]
        elif who.cut == "bob":
            line = [(at * 6, -156), (at * 58, -128), (at * 88, -66)]
        else:
            line = [root, (at * 70, -126 + 10 * abs(at)), (at * 98, -60), (at * 104, 40)]
        tone = who.hair_light if index % 2 else mix(who.hair, (0, 0, 0), 0.5)
        paint.stroke(sketch.at(curve(line, closed=False)), tone, (0.5, 3.0, 1.0), 0.35, 0.9, cover)
