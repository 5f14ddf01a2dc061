"""A drawn, shaded face with a mouth of five continuous parameters, painted from back to front."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from avatar_training import posing
from avatar_training.eyes import brow, eye
from avatar_training.hair import back_hair, front_hair
from avatar_training.lips import lips
from avatar_training.painting import Colour, Painter, Stencil, View, curve, ellipse
from avatar_training.posing import FRAME, Mouth, Pose, face_box
from avatar_training.sketch import Sketch, mix

if TYPE_CHECKING:
    from avatar_training.identities import Identity
    from avatar_training.visemes import Floats


def draw_frame(identity: Identity, pose: Pose, mouth: Mouth) -> npt.NDArray[np.uint8]:
    """Return the whole frame, `(384, 384, 3) uint8` BGR."""
    return draw(identity, pose, mouth, View(0, 0, FRAME, FRAME, FRAME, FRAME))


def draw_crop(identity: Identity, pose: Pose, mouth: Mouth, size: int) -> npt.NDArray[np.uint8]:
    """Return the face box at `size` x `size`, BGR."""
    return draw(identity, pose, mouth, View(*face_box(pose), size, size))


def draw(identity: Identity, pose: Pose, mouth: Mouth, view: View) -> npt.NDArray[np.uint8]:
    """Return one view of the scene, BGR."""
    paint = Painter(view)
    sketch = Sketch(identity, pose, mouth, paint)
    paint.backdrop(_backdrop(*identity.backdrop))
    back_hair(sketch)
    _body(sketch)
    _ears(sketch)
    skin = _head(sketch)
    _nose(sketch, skin)
    lips(sketch, skin)
    for side in (-1, 1):
        eye(sketch, side, skin)
        brow(sketch, side)
    front_hair(sketch, skin)
    return paint.picture()


@lru_cache(maxsize=8)
def _backdrop(top: Colour, bottom: Colour) -> Floats:
    y, x = np.mgrid[0:FRAME, 0:FRAME].astype(np.float32) / FRAME
    share = np.clip(0.15 + 0.9 * np.hypot(x - 0.42, (y - 0.36) * 0.9), 0, 1)[..., None]
    mixed = np.array(top, np.float32) * (1 - share) + np.array(bottom, np.float32) * share
    return np.asarray(mixed, np.float32)


def _body(sketch: Sketch) -> None:
    who, paint = sketch.who, sketch.paint
    neck = curve([(-42, 40), (42, 40), (44, 130), (62, 168), (0, 196), (-62, 168), (-44, 130)])
    paint.fill(sketch.at(neck, body=True), mix(who.skin, who.skin_shade, 0.45))
    shoulders = curve(
        [(0, 176), (40, 158), (76, 160), (140, 184), (190, 222), (214, 330), (0, 360),
         (-214, 330), (-190, 222), (-140, 184), (-76, 160), (-40, 158)]
    )  # fmt: skip
    clip = paint.stencil(sketch.at(shoulders, body=True))
    paint.fill(sketch.at(shoulders, body=True), who.cloth, to=who.cloth_shade)
    for side in (-1, 1):
        fold = curve([(side * 70, 172), (side * 96, 230), (side * 84, 300)], False)
        paint.stroke(sketch.at(fold, body=True), who.cloth_shade, (2, 14, 4), 0.55, 5, clip)
    collar = curve([(-58, 158), (0, 206), (58, 158), (46, 150), (0, 188), (-46, 150)])
    chest = curve([(-46, 140), (46, 140), (50, 158), (0, 196), (-50, 158)])
    paint.fill(sketch.at(chest, body=True), mix(who.skin, who.skin_shade, 0.3))
    paint.fill(sketch.at(collar, body=True), mix(who.cloth, (255, 255, 255), 0.16))
    for side in (-1, 1):
        bone = curve([(side * 10, 172), (side * 30, 160), (side * 46, 152)], False)
        paint.stroke(sketch.at(bone, body=True), who.skin_shade, (1, 5, 1), 0.45, 2)
    # The shadow of the head on the neck follows the head, not the jaw.
    shadow = curve([(-62, 60), (62, 60), (50, 112), (16, 136), (-10, 136), (-44, 112)])
    neck_clip = paint.stencil(sketch.at(neck, body=True))
    paint.fill(sketch.at(shadow), mix(who.skin_shade, (40, 16, 16), 0.4), 0.75, 5, neck_clip)


def _ears(sketch: Sketch) -> None:
    if sketch.who.cut == "bob":
        return
    who = sketch.who
    for side in (-1, 1):
        shift = -8.0 * sketch.pose.yaw * side
        ear = ellipse(side * (90 + shift * 0.3), -8, 12, 23)
        sketch.paint.fill(sketch.at(ear), who.skin, to=mix(who.skin, who.skin_shade, 0.5))
        inner = ellipse(side * (92 + shift * 0.3), -8, 6, 15)
        sketch.paint.fill(sketch.at(inner), who.skin_shade, 0.5, 2)


def _head(sketch: Sketch) -> Stencil:
    who, paint = sketch.who, sketch.paint
    edge = sketch.at(posing.outline(who.jaw, sketch.mouth.open))
    skin = paint.stencil(edge)
    paint.fill(edge, who.skin)
    # Light from the upper left: a bright forehead and cheek, a shaded right side and jaw.
    paint.fill(sketch.at(ellipse(96, 6, 34, 130)), who.skin_shade, 0.55, 17, skin)
    paint.fill(sketch.at(ellipse(-100, 30, 22, 110)), who.skin_shade, 0.3, 13, skin)
    chin = posing.CHIN + posing.JAW_DROP * sketch.mouth.open
    paint.fill(sketch.at(ellipse(8, chin + 6, 74, 17)), who.skin_shade, 0.55, 9, skin)
    paint.fill(sketch.at(ellipse(-22, -74, 46, 26)), who.skin_light, 0.7, 16, skin)
    paint.fill(sketch.at(ellipse(-46, 22, 22, 16), 3), who.skin_light, 0.55, 10, skin)
    paint.fill(sketch.at(ellipse(-2, chin - 16, 16, 9)), who.skin_light, 0.4, 6, skin)
    blush = mix(who.skin, who.lips, 0.4)
    for side in (-1, 1):
        paint.fill(sketch.at(ellipse(side * 50, 30, 20, 13), 3), blush, 0.4, 9, skin)
        socket = curve(
            [(side * 16, -48), (side * 40, -56), (side * 62, -44), (side * 58, -28),
             (side * 22, -28)]
        )  # fmt: skip
        paint.fill(sketch.at(socket, 5), who.skin_shade, 0.32, 5, skin)
    return skin


def _nose(sketch: Sketch, skin: Stencil) -> None:
    who, paint = sketch.who, sketch.paint
    side = curve([(6, -36), (10, -8), (17, 14), (10, 24), (2, 20), (4, -8)])
    paint.fill(sketch.at(side, 8), who.skin_shade, 0.4, 4, skin)
    ridge = curve([(-4, -40), (0, -8), (0, 12), (-6, 12), (-7, -8)])
    paint.fill(sketch.at(ridge, 9), who.skin_light, 0.6, 3, skin)
    paint.fill(sketch.at(ellipse(-2, 14, 7, 5), 10), who.skin_light, 0.7, 2.6, skin)
    under = curve([(-15, 20), (0, 27), (15, 20), (9, 29), (0, 32), (-9, 29)])
    paint.fill(sketch.at(under, 9), who.skin_shade, 0.6, 2.6, skin)
    dark = mix(who.skin_shade, (60, 20, 20), 0.55)
    for x in (-8, 8):
        paint.fill(sketch.at(ellipse(x, 22.5, 4.2, 2.2), 9), dark, 0.8, 0.8, skin)
        wing = curve([(x * 1.7, 12), (x * 2.1, 18), (x * 1.75, 23)], False)
        paint.stroke(sketch.at(wing, 9), dark, (0.8, 2.2, 1), 0.5, 1.0, skin)
