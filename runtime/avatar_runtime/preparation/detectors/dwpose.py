"""DWPose's 68 face points from its ONNX file, as MuseTalk takes them.

The whole frame is the person's box, the result is averaged with that of the mirrored frame, and
SimCC vectors are decoded by their maxima: the configuration
`rtmpose-l_8xb32-270e_coco-ubody-wholebody-384x288` of MMPose, which MuseTalk uses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime import cpus, errors
from avatar_runtime.preparation import given_files
from avatar_runtime.preparation.detectors import landmarks68

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.preparation.faces import Face, FaceDetector

WIDTH: Final = 288
HEIGHT: Final = 384
"""Size of the input, pixels."""
SPLIT_RATIO: Final = 2
"""SimCC bins a pixel of the input."""
KEYPOINTS: Final = 133
FACE: Final = slice(23, 91)
"""The 68 face points among the 133 of COCO-WholeBody."""
_PADDING: Final = 1.25
_MEAN: Final = np.array([123.675, 116.28, 103.53], np.float32)
_STD: Final = np.array([58.395, 57.12, 57.375], np.float32)


class DWPose:
    """A `FaceDetector` with DWPose's points; another detector says which faces there are.

    DWPose finds one person in a frame. Its points replace those of the face that they lie on; a
    face without them keeps its own.
    """

    def __init__(self, path: Path, faces: FaceDetector) -> None:
        """Load the network from an ONNX file.

        Raises:
            AssetError: the file is missing or is not this network, or onnxruntime is missing.
        """
        given_files.require_file(path)
        try:
            from avatar_runtime.onnx_runtime import onnxruntime
        except ModuleNotFoundError as error:
            fault = "needs onnxruntime: install the extra 'prepare' of avatar-service"
            raise errors.AssetError(str(path), fault) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        allowed = cpus.find()
        if allowed.source == "quota":  # onnxruntime counts the cores of the node
            options.intra_op_num_threads = allowed.count
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has an exception of its own for each status
            raise errors.AssetError(str(path), "is not an ONNX file that can be read") from error
        self._input = self._session.get_inputs()[0].name
        self._faces = faces
        self._check(path)

    @property
    def name(self) -> str:
        return f"dwpose-ucoco-384 with {self._faces.name}"

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each frame, the largest first; see `FaceDetector`."""
        found = self._faces.detect(frames)
        return [self._refined(*each) for each in zip(frames, found, strict=True)]

    def points(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the 68 face points of a frame, `(68, 2)` in its pixels."""
        height, width = frame.shape[:2]
        centre, scale = box_of_frame(width, height)
        person = warped(frame, centre, scale)
        # One by one: the published file has a batch of 1.
        x, y = self._vectors(person)
        mirrored_x, mirrored_y = self._vectors(person[:, ::-1])
        other = landmarks68.mirrored()
        sums = x + mirrored_x[other][:, ::-1], y + mirrored_y[other]  # in place of the mean
        return decode(*sums, centre, scale)

    def _refined(self, frame: NDArray[np.uint8], faces: list[Face]) -> list[Face]:
        if not faces:
            return faces
        points = self.points(frame)
        nose = points[landmarks68.NOSE_POINT]
        nose_point = (float(nose[0]), float(nose[1]))
        gap = landmarks68.lip_gap(points)
        refined = []
        for face in faces:
            box = face.box
            inside = box.x1 <= nose[0] < box.x2 and box.y1 <= nose[1] < box.y2
            refined.append(
                replace(face, points=points, nose_point=nose_point, lip_gap=gap) if inside else face
            )
        return refined

    def _vectors(
        self, person: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the SimCC vectors of the face points, `(68, bins)` for x and for y."""
        rgb = cv2.cvtColor(np.ascontiguousarray(person), cv2.COLOR_BGR2RGB)
        blob = ((rgb - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float32)
        x, y = self._session.run(None, {self._input: blob})[:2]
        return x[0, FACE], y[0, FACE]

    def _check(self, path: Path) -> None:
        try:
            x, y = self._session.run(
                None, {self._input: np.zeros((1, 3, HEIGHT, WIDTH), np.float32)}
            )[:2]
            shapes = [list(np.shape(each)) for each in (x, y)]
        except Exception as error:  # see above
            fault = f"does not take one picture of {WIDTH}x{HEIGHT} pixels"
            raise errors.AssetError(str(path), fault) from error
        must = [[1, KEYPOINTS, side * SPLIT_RATIO] for side in (WIDTH, HEIGHT)]
        if shapes != must:
            raise errors.AssetError(
                str(path), f"has outputs of the shapes {shapes}, must be {must}"
            )


def box_of_frame(width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre and the size of the input's box around a whole frame, in pixels."""
    padded_width, padded_height = width * _PADDING, height * _PADDING
    longer = max(padded_width, padded_height * WIDTH / HEIGHT)
    return np.array([width / 2, height / 2]), np.array([longer, longer * HEIGHT / WIDTH])


def warped(
    frame: NDArray[np.uint8], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return the box as the input of the network, `(384, 288, 3) uint8` BGR, black outside."""
    factor = WIDTH / scale[0]
    x, y = np.array([WIDTH, HEIGHT]) / 2 - centre * factor
    matrix = np.array([[factor, 0, x], [0, factor, y]])
    return np.asarray(cv2.warpAffine(frame, matrix, (WIDTH, HEIGHT)), np.uint8)


def decode(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the points of SimCC vectors `(n, bins)` in pixels of the frame, `(n, 2)`."""
    at = np.stack([x.argmax(axis=1), y.argmax(axis=1)], axis=1) / SPLIT_RATIO
    shares = at / (WIDTH, HEIGHT)
    return (shares * scale + centre - scale / 2).astype(np.float32)
