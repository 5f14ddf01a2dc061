"""MediaPipe's face mesh: 468 points of a face inside a rotated square of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, ceil, cos, exp, sin
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.preparation.detectors import mesh_points, model_files, tflite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.preparation.detectors.blazeface import Detection

_SIDE: Final = 192
"""Side of the input, pixels."""
_OUTPUTS: Final = ("conv2d_20", "conv2d_30")
ROI_SCALE: Final = 1.5
"""Side of the square in longer sides of the face's box, as in MediaPipe's graph."""
_MAX_OVERSAMPLING: Final = 4


@dataclass(frozen=True, slots=True)
class Roi:
    """A square in the frame, turned clockwise by `angle` radians about its centre; pixels."""

    x: float
    y: float
    side: float
    angle: float

    def to_frame(self) -> NDArray[np.float64]:
        """Return the matrix `(2, 3)` from shares of the square to pixels of the frame."""
        c, s = cos(self.angle) * self.side, sin(self.angle) * self.side
        return np.array(
            [[c, -s, self.x - (c - s) / 2], [s, c, self.y - (s + c) / 2]], dtype=np.float64
        )


@dataclass(frozen=True, slots=True)
class Mesh:
    """The points of one face."""

    presence: float
    """Probability that the square shows a face, 0 to 1."""
    points: NDArray[np.float32]
    """`(468, 3)`: pixels of the frame; the depth grows away from the camera, in pixels too."""


class FaceMesh:
    """Finds the points of a face in a square. Not safe for use by two threads at once."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            AssetError: the model file is missing or unreadable.
        """
        self._model = tflite.TfliteModel(model_files.find(model_files.FACE_MESH), _OUTPUTS)

    def locate(self, frame: NDArray[np.uint8], roi: Roi) -> Mesh:
        """Return the points inside the square, whether or not it shows a face."""
        rgb = cv2.cvtColor(cut(frame, roi, _SIDE), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        raw, flag = self._model.run(rgb)
        shares = raw.reshape(mesh_points.COUNT, 3).astype(np.float64) / _SIDE
        matrix = roi.to_frame()
        flat = shares[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        points = np.concatenate([flat, shares[:, 2:] * roi.side], axis=1)
        return Mesh(presence=1 / (1 + exp(-float(flag.item()))), points=points.astype(np.float32))


def roi_of_detection(detection: Detection) -> Roi:
    """Return the square for a detected face, upright with respect to its eyes."""
    left_eye, right_eye = detection.points[0], detection.points[1]
    x, y = detection.corners.mean(axis=0)
    return Roi(x, y, detection.side * ROI_SCALE, _angle(left_eye, right_eye))


def roi_of_points(points: NDArray[np.float32]) -> Roi:
    """Return the square for a face whose mesh is known, `(468, 3)`."""
    left_eye, right_eye = points[list(mesh_points.EYE_CORNERS), :2]
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    x, y = (low + high) / 2
    side = float((high - low).max()) * ROI_SCALE
    return Roi(float(x), float(y), side, _angle(left_eye, right_eye))


def cut(frame: NDArray[np.uint8], roi: Roi, side: int) -> NDArray[np.uint8]:
    """Return the square as an upright picture of `side` pixels.

    Outside of the frame its edge pixels are repeated. A large square is sampled more finely
    first, and averaged.
    """
    finer = min(_MAX_OVERSAMPLING, max(1, ceil(roi.side / side / 2)))
    size = side * finer
    matrix = roi.to_frame()
    # A pixel with the index i covers [i, i + 1): its centre lies half a pixel further.
    step = matrix[:, :2] / size
    offset = step.sum(axis=1) / 2 + matrix[:, 2] - 0.5
    picture = cv2.warpAffine(
        frame,
        np.column_stack([step, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if finer > 1:
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)


def _angle(left_eye: NDArray[np.floating], right_eye: NDArray[np.floating]) -> float:
    x, y = right_eye - left_eye
    return atan2(float(y), float(x))
