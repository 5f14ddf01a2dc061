"""The default face detector: MediaPipe's full-range detector and its face mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation.detectors import (
    blazeface,
    following,
    mesh,
    mesh_points,
    model_files,
)
from avatar_runtime.preparation.faces import Face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_PRESENCE: Final = 0.5
"""MediaPipe's default: below it the detector took something else for a face."""
_SAME_FACE_RATIO: Final = 0.5
"""Distance of two noses, in widths of a face, below which both meshes show the same face."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A face in one frame, and where a search found it last."""

    face: Face
    anchor: following.Anchor


class MeshDetector:
    """A `FaceDetector` whose faces have a mesh. Not safe for use by two threads at once.

    The first frame of each call is searched. In the frames after it the mesh follows the faces,
    and a frame is searched where there is no face to follow or one of them is lost.
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
        found: list[list[Sighting]] = []
        for frame in frames:
            before = found[-1] if found else []
            found.append(follow(frame, before, self._mesh) or self._search(frame))
        return [[one.face for one in sightings] for sightings in found]

    def _search(self, frame: NDArray[np.uint8]) -> list[Sighting]:
        # A look may find only things that are no faces, so the next look follows then too.
        looks = (confirmed(frame, found, self._mesh) for found in self._detector.looks(frame))
        return next((faces for faces in looks if faces), [])


def confirmed(
    frame: NDArray[np.uint8], detections: Sequence[blazeface.Detection], model: mesh.FaceMesh
) -> list[Sighting]:
    """Return the faces in which the mesh finds a face too, each once, the largest first."""
    found: list[Sighting] = []
    for detection in detections:
        located, square = _locate(frame, detection, model)
        if located.presence < MIN_PRESENCE:
            continue
        face = face_of(detection.corners, detection.score, located, frame)
        anchor = following.Anchor(square, located.points[:, :2])
        found.append(Sighting(face, anchor))
    return _each_once(found)


def follow(
    frame: NDArray[np.uint8], before: Sequence[Sighting], model: mesh.FaceMesh
) -> list[Sighting]:
    """Return the faces of the frame before at their new places, the largest first.

    The list is empty if one of them is lost.
    """
    found: list[Sighting] = []
    for one in before:
        last = np.asarray(one.face.mesh)
        located = following.follow(frame, one.anchor, last, model)
        if located is None:
            return []
        corners = _moved_corners(one.face.box, last, located.points[:, :2])
        face = face_of(corners, one.face.score, located, frame)
        found.append(Sighting(face, one.anchor))
    return _each_once(found)


def face_of(
    corners: NDArray[np.floating], score: float, found: mesh.Mesh, frame: NDArray[np.uint8]
) -> Face:
    """Return what is known of a face; `corners` are those of the detector's box, `(2, 2)`."""
    (x1, y1), (x2, y2) = np.rint(corners).astype(int)
    pose = mesh_points.head_pose(found.points)
    flat = found.points[:, :2]
    return Face(
        box=Box(int(x1), int(y1), int(x2), int(y2)).clamped(frame.shape[1], frame.shape[0]),
        score=score,
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


def _each_once(found: Sequence[Sighting]) -> list[Sighting]:
    """Return the faces without those that show an earlier one again, the largest first."""
    kept: list[Sighting] = []
    for one in found:
        if not any(is_same(one.face, other.face) for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.face.box.width * one.face.box.height, reverse=True)


def _moved_corners(
    box: Box, before: NDArray[np.float32], now: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the corners of a detector's box, moved and scaled as the points in it."""
    old, new = before.mean(axis=0), now.mean(axis=0)
    scale = float(np.hypot(*now.std(axis=0)) / max(1e-6, np.hypot(*before.std(axis=0))))
    corners = np.array([[box.x1, box.y1], [box.x2, box.y2]], np.float64)
    return np.asarray((corners - old) * scale + new, np.float64)


def _locate(
    frame: NDArray[np.uint8], detection: blazeface.Detection, model: mesh.FaceMesh
) -> tuple[mesh.Mesh, mesh.Roi]:
    """Return the mesh of a detected face, and the square that it was found in."""
    square = mesh.roi_of_detection(detection)
    rough = model.locate(frame, square)
    if rough.presence < MIN_PRESENCE:
        return rough, square
    # The second square is centred on the face itself, so the points lie more exactly.
    near = mesh.roi_of_points(rough.points)
    return model.locate(frame, near), near
