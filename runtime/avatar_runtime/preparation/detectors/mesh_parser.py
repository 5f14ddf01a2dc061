"""The default face parser: polygons of the detector's points, drawn as classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.preparation.detectors import landmarks68, mesh_points

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.avatars.geometry import Box
    from avatar_runtime.preparation.faces import Face

SIDE: Final = 512
"""Side of the output, pixels."""
# Classes of the parser that upstream uses, see avatars/masks.py.
SKIN: Final = 1
NOSE: Final = 10
MOUTH: Final = 11
LIPS: Final = 12
_SUB_PIXEL_BITS: Final = 4
"""Fraction bits of polygon corners that OpenCV takes."""


class MeshParser:
    """A `FaceParser` without a network: it draws what the detector knows.

    It knows no hair, glasses or hands before the face, so these count as skin.
    """

    @property
    def name(self) -> str:
        return "mesh-polygons"

    def parse(
        self,
        squares: Iterable[NDArray[np.uint8]],
        faces: Sequence[Face],
        crops: Sequence[Box],
    ) -> list[NDArray[np.uint8]]:
        """Return the class of each pixel; see `FaceParser`."""
        return [draw(face, crop) for face, crop in zip(faces, crops, strict=True)]


def draw(face: Face, crop: Box) -> NDArray[np.uint8]:
    """Return the classes of a face in its crop box, `(512, 512) uint8`, 0 for the background."""
    classes = np.zeros((SIDE, SIDE), np.uint8)
    for polygon, label in _polygons(face):
        shares = (polygon - (crop.x1, crop.y1)) / (crop.width, crop.height)
        # The first pixel's centre lies at 0.5; OpenCV counts centres from 0.
        corners = np.rint((shares * SIDE - 0.5) * (1 << _SUB_PIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(classes, [corners], label, shift=_SUB_PIXEL_BITS)
    return classes


def _polygons(face: Face) -> list[tuple[NDArray[np.float32], int]]:
    """Return the polygons in drawing order; later ones cover earlier ones."""
    tables: tuple[tuple[tuple[int, ...], int], ...]
    if face.mesh is not None:
        tables = (
            (mesh_points.OVAL, SKIN),
            (mesh_points.NOSE, NOSE),
            (mesh_points.OUTER_LIPS, LIPS),
            (mesh_points.INNER_LIPS, MOUTH),
        )
        return [(face.mesh[list(table)], label) for table, label in tables]
    outline = cv2.convexHull(face.points)[:, 0]
    tables = (
        (landmarks68.NOSE, NOSE),
        (landmarks68.OUTER_LIPS, LIPS),
        (landmarks68.INNER_LIPS, MOUTH),
    )
    return [(outline, SKIN), *((face.points[list(table)], label) for table, label in tables)]
