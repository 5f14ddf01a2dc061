"""Measures one face in one frame: sharpness, colour of the lips, and what the edge cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from avatar_runtime.avatars.geometry import Box
    from avatar_runtime.preparation.faces import Face

_SIDE: Final = 128  # pixels of the face for `sharpness`: detail that the 256-pixel mouth can show
# The lines around and inside the lips and four points of the cheeks, of the 468-point mesh.
_MESH_LIPS: Final = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185,
)  # fmt: skip
_MESH_INNER_LIPS: Final = (
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191,
)  # fmt: skip
_MESH_CHEEKS: Final = (50, 205, 280, 425)
# The same for 68 points; a cheek lies between the jaw and the wing of the nose.
_LIPS_68: Final = tuple(range(48, 60))
_INNER_LIPS_68: Final = tuple(range(60, 68))
_CHEEKS_68: Final = ((2, 31), (14, 35))
_CHEEK_RATIO: Final = 0.06  # side of a cheek's patch, as a share of the face's width


def sharpness(frame: NDArray[np.uint8], box: Box) -> float:
    """Return the variance of the Laplacian of the face, divided by the variance of its grey levels.

    The face is scaled to 128 x 128 pixels first. The quotient does not depend on brightness and
    contrast: a defocused face has less than 0.015, whatever the light. A flat picture has 0.
    """
    inside = box.clamped(frame.shape[1], frame.shape[0])
    if inside.width < 2 or inside.height < 2:
        return 0.0
    face = frame[inside.y1 : inside.y2, inside.x1 : inside.x2]
    grey = cv2.cvtColor(
        cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY
    )
    spread = float(grey.var())
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) / spread if spread > 1 else 0.0


def lip_redness(frame: NDArray[np.uint8], face: Face) -> float:
    """Return how much redder the lips are than the cheeks: the difference of a* in CIELAB.

    It is 0 if the landmarks are neither the mesh nor 68 points, or lie outside the frame.
    """
    parts = _parts(face)
    if parts is None:
        return 0.0
    lips, inner, cheeks = parts
    side = max(1, int(np.ptp(face.points[:, 0]) * _CHEEK_RATIO))
    left, top = np.floor(np.vstack([lips, cheeks]).min(axis=0) - side).astype(int)
    right, bottom = np.ceil(np.vstack([lips, cheeks]).max(axis=0) + side).astype(int)
    left, top = max(0, left), max(0, top)
    part = frame[top : max(top, bottom), left : max(left, right)]
    if part.shape[0] < 2 or part.shape[1] < 2:
        return 0.0
    # cv2 stores a* of an 8-bit picture as a* + 128.
    red = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_BGR2LAB)[:, :, 1]
    origin = np.array([left, top])
    mouth, skin = np.zeros(red.shape, np.uint8), np.zeros(red.shape, np.uint8)
    # Without the teeth and the dark of an open mouth.
    cv2.fillPoly(mouth, [np.rint(lips - origin).astype(np.int32)], 1)
    cv2.fillPoly(mouth, [np.rint(inner - origin).astype(np.int32)], 0)
    for x, y in np.rint(cheeks - origin).astype(int):
        cv2.rectangle(skin, (x - side // 2, y - side // 2), (x + side // 2, y + side // 2), 1, -1)
    if not mouth.any() or not skin.any():
        return 0.0
    return float(cv2.mean(red, mouth)[0] - cv2.mean(red, skin)[0])


def outside_ratio(face: Face, width: int, height: int) -> float:
    """Return how far landmarks lie outside the frame, as a share of the face's larger side."""
    low, high = face.points.min(axis=0), face.points.max(axis=0)
    size = max(1.0, float((high - low).max()))
    beyond = max(-low[0], -low[1], high[0] - width, high[1] - height, 0.0)
    return float(beyond) / size


_Points = NDArray[np.float32]


def _parts(face: Face) -> tuple[_Points, _Points, _Points] | None:
    """Return the outer and the inner line of the lips, and points of the cheeks."""
    if face.mesh is not None and len(face.mesh) >= 468:
        lines = (_MESH_LIPS, _MESH_INNER_LIPS, _MESH_CHEEKS)
        outer, inner, cheeks = (face.mesh[list(line)] for line in lines)
        return outer, inner, cheeks
    if len(face.points) == 68:
        between = [(face.points[a] + face.points[b]) / 2 for a, b in _CHEEKS_68]
        return face.points[list(_LIPS_68)], face.points[list(_INNER_LIPS_68)], np.stack(between)
    return None
