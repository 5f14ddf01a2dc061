"""A drawn, shaded face: identities, poses and a mouth of five continuous parameters.

Face coordinates have their origin at the bridge of the nose's lower end (landmark 29, where
MuseTalk's lower half begins), y downwards, and the jaw at x = +-88. No real person is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from avatar_training.painting import Colour, Painter, Stencil, View, curve, ellipse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_training.visemes import Floats

FRAME: Final = 384
"""Side of the square frame in pixels."""
_UNIT: Final = 0.82  # frame pixels per face unit
_CENTRE: Final = (FRAME / 2, FRAME * 0.47)
_JAW_HALF: Final = 88.0
_CHIN: Final = 106.0
_JAW_DROP: Final = 3.0
"""Face units that the chin sinks by; the cheeks stand still, so little moves beside the mouth."""
_EXTRA_MARGIN: Final = 10  # MuseTalk v1.5, pixels
_MOUTH_Y: Final = 59.0
_MOUTH_DEPTH: Final = 6.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is drawn."""

    skin: Colour
    skin_shade: Colour
    skin_light: Colour
    lips: Colour
    lips_light: Colour
    hair: Colour
    hair_light: Colour
    iris: Colour
    cloth: Colour
    cloth_shade: Colour
    backdrop: tuple[Colour, Colour]
    cut: Literal["long", "short", "bob"]
    brow: float = 6.0
    jaw: float = 1.0
    """Width of the chin: below 1 pointed, above 1 square."""


IDENTITIES: Final[Mapping[str, Identity]] = {
    "anna": Identity(
        skin=(244, 205, 178), skin_shade=(203, 140, 112), skin_light=(255, 230, 210),
        lips=(196, 92, 92), lips_light=(232, 146, 138), hair=(116, 56, 34),
        hair_light=(184, 104, 62), iris=(84, 128, 92), cloth=(38, 118, 128),
        cloth_shade=(22, 78, 92), backdrop=((226, 236, 240), (160, 190, 206)), cut="long",
        brow=5.0, jaw=0.94,
    ),
    "ben": Identity(
        skin=(160, 108, 78), skin_shade=(106, 64, 44), skin_light=(198, 146, 112),
        lips=(134, 70, 62), lips_light=(176, 106, 94), hair=(30, 24, 24),
        hair_light=(72, 58, 54), iris=(70, 42, 24), cloth=(222, 164, 62),
        cloth_shade=(170, 112, 34), backdrop=((244, 232, 214), (214, 186, 152)), cut="short",
        brow=8.0, jaw=1.1,
    ),
    "mira": Identity(
        skin=(234, 190, 152), skin_shade=(190, 130, 94), skin_light=(250, 218, 186),
        lips=(184, 76, 84), lips_light=(222, 128, 128), hair=(34, 30, 42),
        hair_light=(86, 80, 108), iris=(74, 56, 42), cloth=(140, 82, 150),
        cloth_shade=(94, 50, 106), backdrop=((236, 230, 244), (188, 176, 212)), cut="bob",
        brow=5.5, jaw=1.0,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pose:
    """Head position and everything that moves but the mouth."""

    dx: float = 0.0
    dy: float = 0.0
    """Shift in face units."""
    tilt: float = 0.0
    """Degrees."""
    yaw: float = 0.0
    """Turn in [-1, 1]: the features slide over the head."""
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
    """Return the poses of a loop that is played forward and back without a jolt.

    All speeds are zero at both ends; the blink lies across the last frame, where the playback
    turns, so each round trip blinks once.
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
    points = _to_frame(_outline(1.0, 0.0), pose)
    (x1, _), (x2, bottom) = points.min(axis=0), points.max(axis=0)
    nose = float(_to_frame(np.zeros((1, 2), np.float32), pose)[0, 1])
    top = max(0.0, 2 * nose - bottom)
    return (round(x1), round(top), round(x2), min(round(bottom) + _EXTRA_MARGIN, FRAME))


def moving_region(pose: Pose) -> npt.NDArray[np.uint8]:
    """Return what a mouth may move, and as much about it as a mask's soft edge needs.

    A frame-sized mask, 0 or 255. The cheeks beside it stay the source's pixels exactly.
    """
    right = [
        (0, 6), (30, 8), (48, 20), (60, 34), (66, 52), (70, 70), (72, 84), (66, 98), (52, 110),
        (30, 118),
    ]  # fmt: skip
    around = curve([*right, (0, 121), *[(-x, y) for x, y in reversed(right[1:])]])
    slide = np.array([pose.yaw * _MOUTH_DEPTH, 0.0], np.float32)
    region = np.zeros((FRAME, FRAME), np.uint8)
    cv2.fillPoly(region, [np.round(_to_frame(around + slide, pose)).astype(np.int32)], 255)
    return region


def draw_frame(identity: Identity, pose: Pose, mouth: Mouth) -> npt.NDArray[np.uint8]:
    """Return the whole frame, `(384, 384, 3) uint8` BGR."""
    return draw(identity, pose, mouth, View(0, 0, FRAME, FRAME, FRAME, FRAME))


def draw_crop(identity: Identity, pose: Pose, mouth: Mouth, size: int) -> npt.NDArray[np.uint8]:
    """Return the face box at `size` x `size`, BGR."""
    return draw(identity, pose, mouth, View(*face_box(pose), size, size))


def draw(identity: Identity, pose: Pose, mouth: Mouth, view: View) -> npt.NDArray[np.uint8]:
    """Return one view of the scene, BGR."""
    return _Scene(identity, pose, mouth, view).painted()


def _to_frame(points: Floats, pose: Pose) -> Floats:
    angle = np.deg2rad(pose.tilt)
    # The head nods about the neck, below the chin.
    pivot = np.array([0.0, 120.0], np.float32)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32
    )
    moved = (points - pivot) @ turn.T + pivot + np.array([pose.dx, pose.dy], np.float32)
    return (moved * _UNIT + np.array(_CENTRE, np.float32)).astype(np.float32)


def _outline(jaw: float, drop: float) -> Floats:
    chin = _CHIN + _JAW_DROP * drop
    right = [
        (0, -128), (40, -122), (68, -98), (84, -58), (_JAW_HALF, -14), (84, 24),
        (72 * (0.6 + 0.4 * jaw), 56), (48 * jaw, 88), (22 * jaw, chin - 3),
    ]  # fmt: skip
    left = [(-x, y) for x, y in reversed(right[1:])]
    return curve([*right, (0, chin), *left])


@lru_cache(maxsize=8)
def _backdrop(top: Colour, bottom: Colour) -> Floats:
    y, x = np.mgrid[0:FRAME, 0:FRAME].astype(np.float32) / FRAME
    share = np.clip(0.15 + 0.9 * np.hypot(x - 0.42, (y - 0.36) * 0.9), 0, 1)[..., None]
    mixed = np.array(top, np.float32) * (1 - share) + np.array(bottom, np.float32) * share
    return np.asarray(mixed, np.float32)


class _Scene:
    """One drawing; the methods paint from back to front."""

    def __init__(self, identity: Identity, pose: Pose, mouth: Mouth, view: View) -> None:
        self._who = identity
        self._pose = pose
        self._mouth = mouth
        self._paint = Painter(view)

    def painted(self) -> npt.NDArray[np.uint8]:
        who = self._who
        self._paint.backdrop(_backdrop(*who.backdrop))
        self._back_hair()
        self._body()
        self._ears()
        skin = self._head()
        self._nose(skin)
        self._lips(skin)
        for side in (-1, 1):
            self._eye(side, skin)
            self._brow(side)
        self._front_hair(skin)
        return self._paint.picture()

    def _at(self, points: Floats, depth: float = 0.0, body: bool = False) -> Floats:
        """Map face units to the frame; nearer features slide further when the head turns."""
        pose = self._pose
        if body:
            pose = Pose(dx=pose.dx * 0.25, dy=pose.dy * 0.2)
        slide = np.array([0.0 if body else pose.yaw * depth, 0.0], np.float32)
        return _to_frame(points + slide, pose)

    def _back_hair(self) -> None:
        who = self._who
        if who.cut == "short":
            return
        low = 190.0 if who.cut == "long" else 84.0
        wide = 112.0 if who.cut == "long" else 110.0
        right = [
            (0, -158), (56, -148), (94, -112), (108, -50), (wide, 10), (wide + 2, low * 0.55),
            (wide - 4, low), (60, low + 8),
        ]  # fmt: skip
        shape = curve([*right, *[(-x, y) for x, y in reversed(right[1:])]])
        self._paint.fill(self._at(shape), who.hair, to=_mix(who.hair, (0, 0, 0), 0.35))
        for side in (-1, 1):
            for x in (94, 102):
                line = curve(
                    [(side * (x - 8), -60), (side * x, 10), (side * (x + 2), low - 20)], False
                )
                self._paint.stroke(self._at(line), who.hair_light, (1, 5, 1), alpha=0.35, blur=1.6)

    def _body(self) -> None:
        who, paint = self._who, self._paint
        neck = curve([(-42, 40), (42, 40), (44, 130), (62, 168), (0, 196), (-62, 168), (-44, 130)])
        paint.fill(self._at(neck, body=True), _mix(who.skin, who.skin_shade, 0.45))
        shoulders = curve(
            [(0, 176), (40, 158), (76, 160), (140, 184), (190, 222), (214, 330), (0, 360),
             (-214, 330), (-190, 222), (-140, 184), (-76, 160), (-40, 158)]
        )  # fmt: skip
        clip = paint.stencil(self._at(shoulders, body=True))
        paint.fill(self._at(shoulders, body=True), who.cloth, to=who.cloth_shade)
        for side in (-1, 1):
            fold = curve([(side * 70, 172), (side * 96, 230), (side * 84, 300)], False)
            paint.stroke(self._at(fold, body=True), who.cloth_shade, (2, 14, 4), 0.55, 5, clip)
        collar = curve([(-58, 158), (0, 206), (58, 158), (46, 150), (0, 188), (-46, 150)])
        chest = curve([(-46, 140), (46, 140), (50, 158), (0, 196), (-50, 158)])
        paint.fill(self._at(chest, body=True), _mix(who.skin, who.skin_shade, 0.3))
        paint.fill(self._at(collar, body=True), _mix(who.cloth, (255, 255, 255), 0.16))
        for side in (-1, 1):
            bone = curve([(side * 10, 172), (side * 30, 160), (side * 46, 152)], False)
            paint.stroke(self._at(bone, body=True), who.skin_shade, (1, 5, 1), 0.45, 2)
        # The head's shadow on the neck; it follows the head, not the jaw.
        shadow = curve([(-62, 60), (62, 60), (50, 112), (16, 136), (-10, 136), (-44, 112)])
        neck_clip = paint.stencil(self._at(neck, body=True))
        paint.fill(self._at(shadow), _mix(who.skin_shade, (40, 16, 16), 0.4), 0.75, 5, neck_clip)

    def _ears(self) -> None:
        if self._who.cut == "bob":
            return
        who = self._who
        for side in (-1, 1):
            shift = -8.0 * self._pose.yaw * side
            ear = ellipse(side * (90 + shift * 0.3), -8, 12, 23)
            self._paint.fill(self._at(ear), who.skin, to=_mix(who.skin, who.skin_shade, 0.5))
            inner = ellipse(side * (92 + shift * 0.3), -8, 6, 15)
            self._paint.fill(self._at(inner), who.skin_shade, 0.5, 2)

    def _head(self) -> Stencil:
        who, paint = self._who, self._paint
        outline = self._at(_outline(who.jaw, self._mouth.open))
        skin = paint.stencil(outline)
        paint.fill(outline, who.skin)
        # Light from the upper left: a bright forehead and cheek, a shaded right side and jaw.
        paint.fill(self._at(ellipse(96, 6, 34, 130)), who.skin_shade, 0.55, 17, skin)
        paint.fill(self._at(ellipse(-100, 30, 22, 110)), who.skin_shade, 0.3, 13, skin)
        chin = _CHIN + _JAW_DROP * self._mouth.open
        paint.fill(self._at(ellipse(8, chin + 6, 74, 17)), who.skin_shade, 0.55, 9, skin)
        paint.fill(self._at(ellipse(-22, -74, 46, 26)), who.skin_light, 0.7, 16, skin)
        paint.fill(self._at(ellipse(-46, 22, 22, 16), 3), who.skin_light, 0.55, 10, skin)
        paint.fill(self._at(ellipse(-2, chin - 16, 16, 9)), who.skin_light, 0.4, 6, skin)
        blush = _mix(who.skin, who.lips, 0.4)
        for side in (-1, 1):
            paint.fill(self._at(ellipse(side * 50, 30, 20, 13), 3), blush, 0.4, 9, skin)
            socket = curve(
                [(side * 16, -48), (side * 40, -56), (side * 62, -44), (side * 58, -28),
                 (side * 22, -28)]
            )  # fmt: skip
            paint.fill(self._at(socket, 5), who.skin_shade, 0.32, 5, skin)
        return skin

    def _nose(self, skin: Stencil) -> None:
        who, paint = self._who, self._paint
        side = curve([(6, -36), (10, -8), (17, 14), (10, 24), (2, 20), (4, -8)])
        paint.fill(self._at(side, 8), who.skin_shade, 0.4, 4, skin)
        ridge = curve([(-4, -40), (0, -8), (0, 12), (-6, 12), (-7, -8)])
        paint.fill(self._at(ridge, 9), who.skin_light, 0.6, 3, skin)
        paint.fill(self._at(ellipse(-2, 14, 7, 5), 10), who.skin_light, 0.7, 2.6, skin)
        under = curve([(-15, 20), (0, 27), (15, 20), (9, 29), (0, 32), (-9, 29)])
        paint.fill(self._at(under, 9), who.skin_shade, 0.6, 2.6, skin)
        dark = _mix(who.skin_shade, (60, 20, 20), 0.55)
        for x in (-8, 8):
            paint.fill(self._at(ellipse(x, 22.5, 4.2, 2.2), 9), dark, 0.8, 0.8, skin)
            wing = curve([(x * 1.7, 12), (x * 2.1, 18), (x * 1.75, 23)], False)
            paint.stroke(self._at(wing, 9), dark, (0.8, 2.2, 1), 0.5, 1.0, skin)

    def _lips(self, skin: Stencil) -> None:
        who, paint, m = self._who, self._paint, self._mouth
        y, depth = _MOUTH_Y, _MOUTH_DEPTH
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
                self._at(fold, depth), who.skin_shade, (1, 4, 1), 0.12 + 0.26 * m.wide, 2.6, skin
            )
        below = ellipse(0, y + down + thick_low + 5, half * 0.62, 4.5)
        paint.fill(self._at(below, depth), who.skin_shade, 0.55, 3.2, skin)
        philtrum = curve([(-3.5, 34), (3.5, 34), (5, y - up - thick_up), (-5, y - up - thick_up)])
        paint.fill(self._at(philtrum, depth), who.skin_shade, 0.3, 1.8, skin)

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
        paint.fill(
            self._at(lips, depth), who.lips, 1, 0.5, skin, _mix(who.lips, who.lips_light, 0.7)
        )
        shine = ellipse(-3, y + down + thick_low * 0.52, half * 0.42, thick_low * 0.24)
        paint.fill(self._at(shine, depth), _mix(who.lips_light, (255, 255, 255), 0.5), 0.6, 1.5)
        arch = curve([(-half * 0.5, y - up - thick_up * 0.95), (-6, y - up - thick_up - 1.2),
                      (0, y - up - thick_up * 0.85), (6, y - up - thick_up - 1.2),
                      (half * 0.5, y - up - thick_up * 0.95)], False)  # fmt: skip
        paint.stroke(self._at(arch, depth), who.skin_light, (0.5, 1.6, 0.5), 0.5, 0.8, skin)

        cave = self._at(curve([*top, *low]), depth)
        inside = paint.stencil(cave, 0.35)
        paint.fill(cave, (66, 20, 26), 1, 0.35, None, (104, 36, 40))
        if gap > 1.5:
            self._inner_mouth(inside, gap, up, down, inner_half, depth)
        dark = _mix(who.lips, (50, 10, 14), 0.65)
        seam_top = curve(top, closed=False)
        paint.stroke(self._at(seam_top, depth), dark, (0.6, 2.0, 0.6), 0.75, 0.5)
        for side in (-1, 1):
            paint.fill(
                self._at(ellipse(side * half, corner, 2.6, 2.0), depth), dark, 0.6, 1.3, skin
            )

    def _inner_mouth(
        self, inside: Stencil, gap: float, up: float, down: float, half: float, depth: float
    ) -> None:
        paint, m, y = self._paint, self._mouth, _MOUTH_Y
        rise = 4 + 0.42 * gap * m.tongue + 0.2 * gap
        tongue = ellipse(0, y + down + 4, half * 0.62, rise + 4)
        if m.open > 0.08:
            paint.fill(
                self._at(tongue, depth), (206, 104, 104), min(1.0, 0.45 + m.tongue), 1.2, inside,
                (160, 66, 72),
            )  # fmt: skip
            groove = curve([(0, y + down - rise + 4), (0, y + down + 2)], closed=False)
            paint.stroke(self._at(groove, depth), (150, 60, 66), (1, 2), 0.5, 1.0, inside)
        tall = min(3.0 + 6.0 * m.teeth, gap)
        teeth = curve(
            [(-half * 0.72, y - up - 3), (half * 0.72, y - up - 3),
             (half * 0.66, y - up + tall * 0.8),
             (half * 0.3, y - up + tall), (-half * 0.3, y - up + tall),
             (-half * 0.66, y - up + tall * 0.8)]
        )  # fmt: skip
        shown = min(1.0, 1.4 * m.teeth + 0.25 * m.open)
        paint.fill(self._at(teeth, depth), (214, 206, 198), shown, 0.6, inside, (252, 248, 240))
        if m.teeth > 0.3:
            row = curve(
                [(-half * 0.5, y + down + 2), (half * 0.5, y + down + 2),
                 (half * 0.42, y + down - gap * 0.28), (-half * 0.42, y + down - gap * 0.28)]
            )  # fmt: skip
            paint.fill(self._at(row, depth), (226, 218, 208), (m.teeth - 0.3) * 0.9, 0.6, inside)
        # The upper lip shades what lies behind it.
        shade = curve(
            [(-half, y - up - 4), (half, y - up - 4), (half, y - up + 2), (-half, y - up + 2)]
        )
        paint.fill(self._at(shade, depth), (50, 14, 18), 0.5, 1.6, inside)

    def _eye(self, side: int, skin: Stencil) -> None:
        who, paint, depth = self._who, self._paint, 6.0
        x, y, closed = side * 38.0, -38.0, self._pose.blink
        lift = 11.0 * (1 - closed)
        inner, outer = x - side * 19, x + side * 20
        upper = [(inner, y + 4), (x - side * 8, y + 4 - lift), (x + side * 6, y + 3.4 - lift),
                 (outer, y + 1)]  # fmt: skip
        lower = [(x + side * 10, y + 8), (x - side * 6, y + 8.6)]
        opening = self._at(curve([*upper, *lower]), depth)
        lid = curve([*upper, (x + side * 16, y - 13), (x, y - 17), (x - side * 14, y - 11)])
        paint.fill(self._at(lid, depth), _mix(who.skin, who.skin_shade, 0.35), 0.8, 1.5, skin)
        if closed < 0.97:
            white = paint.stencil(opening, 0.4)
            paint.fill(opening, (226, 224, 226), 1, 0.4, None, (250, 249, 248))
            gaze = x + 2.0 * self._pose.yaw
            paint.fill(
                self._at(ellipse(gaze, y - 1, 10.4, 10.4), depth),
                _mix(who.iris, (0, 0, 0), 0.55),
                1,
                0.4,
                white,
            )
            paint.fill(
                self._at(ellipse(gaze, y - 0.6, 9.0, 9.0), depth),
                _mix(who.iris, (0, 0, 0), 0.25), 1,
                0.6, white, _mix(who.iris, (255, 255, 255), 0.35),
            )  # fmt: skip
            paint.fill(self._at(ellipse(gaze, y - 1, 4.6, 4.6), depth), (14, 10, 12), 1, 0.4, white)
            paint.fill(
                self._at(ellipse(gaze - 3.6, y - 5, 2.7, 2.4), depth),
                (255, 255, 255),
                0.95,
                0.3,
                white,
            )
            paint.fill(
                self._at(ellipse(gaze + 3.4, y + 3.4, 1.6, 1.3), depth),
                (255, 255, 255),
                0.5,
                0.4,
                white,
            )
            shadow = curve([*upper, (outer, y - 4), (x, y - 4 - lift), (inner, y)])
            paint.fill(self._at(shadow, depth), (70, 50, 54), 0.4, 1.8, white)
        lash = curve([*upper, (outer + side * 4, y - 2)], closed=False)
        width = (1.0, 3.2, 3.6, 2.4) if who.cut != "short" else (0.8, 2.4, 2.6, 1.0)
        paint.stroke(self._at(lash, depth), _mix(who.hair, (24, 14, 14), 0.7), width, 0.95, 0.4)
        under = curve([(outer, y + 2), *lower, (inner, y + 5)], closed=False)
        paint.stroke(
            self._at(under, depth), _mix(who.skin_shade, (60, 30, 30), 0.4), (1.2, 1, 0.6), 0.5, 0.6
        )
        crease = curve(
            [(inner + side * 3, y - 4), (x, y - 13 + 3 * closed), (outer - side * 2, y - 7)], False
        )
        paint.stroke(self._at(crease, depth), who.skin_shade, (0.6, 1.8, 0.8), 0.7, 0.8, skin)

    def _brow(self, side: int) -> None:
        who = self._who
        x, y = side * 40.0, -66.0 - 5.0 * self._pose.brows
        line = curve(
            [
                (x - side * 22, y + 5),
                (x - side * 6, y - 1),
                (x + side * 10, y - 2),
                (x + side * 26, y + 6),
            ],
            closed=False,
        )
        colour = _mix(who.hair, (20, 14, 12), 0.25)
        self._paint.stroke(
            self._at(line, 6), colour, (who.brow * 0.7, who.brow, who.brow * 0.8, 1.2), 0.85, 0.9
        )

    def _front_hair(self, skin: Stencil) -> None:
        who, paint = self._who, self._paint
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
            shape = self._at(curve(points))
            lowered = shape + np.array([1.5, 3.5], np.float32)
            paint.fill(lowered, _mix(who.skin_shade, (30, 10, 10), 0.4), 0.5, 4, skin)
            cover = paint.stencil(shape)
            paint.fill(shape, who.hair, 1, 0.5, None, _mix(who.hair, (0, 0, 0), 0.2))
            glow = curve(
                [(-84, -72), (-58, -112), (-16, -132), (34, -128), (70, -104)], closed=False
            )
            paint.stroke(self._at(glow), who.hair_light, (3, 16, 20, 12, 2), 0.5, 6, cover)
            self._strands(cover)

    def _strands(self, cover: Stencil) -> None:
        who, paint = self._who, self._paint
        for index in range(9):
            at = (index - 4) / 4
            root = (-14 + 10 * at, -150)
            if who.cut == "short":
                line = [root, (at * 62, -136 + 12 * abs(at)), (at * 92, -96 + 40 * abs(at))]
            elif who.cut == "bob":
                line = [(at * 6, -156), (at * 58, -128), (at * 88, -66)]
            else:
                line = [root, (at * 70, -126 + 10 * abs(at)), (at * 98, -60), (at * 104, 40)]
            tone = who.hair_light if index % 2 else _mix(who.hair, (0, 0, 0), 0.5)
            paint.stroke(
                self._at(curve(line, closed=False)), tone, (0.5, 3.0, 1.0), 0.35, 0.9, cover
            )


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return (red, green, blue)
