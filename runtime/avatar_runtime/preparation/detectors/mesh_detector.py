"""The default face detector: MediaPipe's full-range detector and its face mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation.detectors import blazeface, mesh, mesh_points, model_files
from avatar_runtime.preparation.faces import Face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_PRESENCE: Final = 0.5
"""MediaPipe's default: below it the detector took something else for a face."""
_SAME_FACE_RATIO: Final = 0.5
"""Distance of two noses, in widths of a face, below which both meshes show the same face."""


class MeshDetector:
    """A `FaceDetector` whose faces have a mesh. Not safe for use by two threads at once.

    Each frame is searched alone, so the faces do not depend on the frames before it.
    """

    def __init__(self) -> None:
        """Load both models.

        Raises:
            AssetError: the package with the models is missing or unreadable.
        """
        self._detector = blazeface.BlazeFace()
        self._mesh = mesh.FaceMesh()

    @property
    def name(self) -> str:
        return f"mediapipe-full-range-mesh468 ({model_files.DISTRIBUTION} {model_files.VERSION})"

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each frame, the largest first; see `FaceDetector`."""
        return [self._search(frame) for frame in frames]

    def _search(self, frame: NDArray[np.uint8]) -> list[Face]:
        # A look may find only things that are no faces, so the next look follows then too.
        looks = (confirmed(frame, found, self._mesh) for found in self._detector.looks(frame))
        return next((faces for faces in looks if faces), [])


def confirmed(
    frame: NDArray[np.uint8], detections: Sequence[blazeface.Detection], model: mesh.FaceMesh
) -> list[Face]:
    """Return the faces in which the mesh finds a face too, each once, the largest first."""
    found: list[Face] = []
    for detection in detections:
        located = _locate(frame, detection, model)
        if located.presence < MIN_PRESENCE:
            continue
        face = face_of(detection, located, frame.shape[1], frame.shape[0])
        if not any(is_same(face, other) for other in found):
            found.append(face)
    return sorted(found, key=lambda face: face.box.width * face.box.height, reverse=True)


def face_of(detection: blazeface.Detection, found: mesh.Mesh, width: int, height: int) -> Face:
    """Return what is known of a face in a frame of this size."""
    (x1, y1), (x2, y2) = np.rint(detection.corners).astype(int)
    pose = mesh_points.head_pose(found.points)
    flat = found.points[:, :2]
    return Face(
        box=Box(int(x1), int(y1), int(x2), int(y2)).clamped(width, height),
        score=detection.score,
        points=flat[list(mesh_points.BOUNDING)],
        nose_point=mesh_points.nose_point(found.points),
        lip_gap=mesh_points.lip_gap(found.points),
        yaw_degrees=pose.yaw,
        pitch_degrees=pose.pitch,
        roll_degrees=pose.roll,
        presence=found.presence,
        mesh=flat,
    )


def is_same(one: Face, other: Face) -> bool:
    """Whether two detections led to the points of the same face."""
    apart = np.hypot(*np.subtract(one.nose_point, other.nose_point))
    return bool(apart < _SAME_FACE_RATIO * np.ptp(other.points[:, 0]))


def _locate(
    frame: NDArray[np.uint8], detection: blazeface.Detection, model: mesh.FaceMesh
) -> mesh.Mesh:
    rough = model.locate(frame, mesh.roi_of_detection(detection))
    if rough.presence < MIN_PRESENCE:
        return rough
    # The second square is centred on the face itself, so the points lie more exactly.
    return model.locate(frame, mesh.roi_of_points(rough.points))
