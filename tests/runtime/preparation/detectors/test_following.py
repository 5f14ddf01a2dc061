"""Faces that are followed by their mesh, compared with a search of every frame."""

from __future__ import annotations

from math import cos, radians, sin
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars import geometry
from avatar_runtime.preparation import analysis, quality
from avatar_runtime.preparation.detectors import following, mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector as Detector
    from avatar_runtime.preparation.faces import Face

    Picture = NDArray[np.uint8]
    Photographs = dict[str, Picture]
    Matrix = NDArray[np.float64]

FRAMES = 10
"""Frames of one call: the first one is searched."""
SQUARE = mesh.Roi(200.0, 120.0, 150.0, 0.1)
POINTS = np.random.default_rng(3).normal((200, 120), 30, (468, 2)).astype(np.float32)


def similarity(scale: float, degrees: float, x: float, y: float) -> Matrix:
    c, s = scale * cos(radians(degrees)), scale * sin(radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


def moved(picture: Picture, matrix: Matrix, size: tuple[int, int]) -> Picture:
    made = cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(made, np.uint8)


def searched(detector: Detector, frames: Sequence[Picture]) -> list[list[Face]]:
    return [detector.detect([frame])[0] for frame in frames]


def edges(face: Face, frame: Picture) -> NDArray[np.float64]:
    box = geometry.face_box(
        face.points, face.nose_point, frame.shape[1], frame.shape[0], "v15", detector_box=face.box
    )
    return np.array([box.x1, box.y1, box.x2, box.y2], np.float64)


@given(st.floats(0.5, 2), st.floats(-90, 90), st.floats(-300, 300), st.floats(-300, 300))
def test_the_square_moves_as_the_points(scale: float, degrees: float, x: float, y: float) -> None:
    matrix = similarity(scale, degrees, x, y)
    points = (POINTS @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    found = following.Anchor(SQUARE, POINTS).moved(points)
    assert found is not None
    at = matrix[:, :2] @ (SQUARE.x, SQUARE.y) + matrix[:, 2]
    assert (found.x, found.y) == pytest.approx(tuple(at), abs=0.01)
    assert found.side == pytest.approx(SQUARE.side * scale, rel=1e-4)
    assert found.angle == pytest.approx(SQUARE.angle + radians(degrees), abs=1e-4)


def test_points_without_extent_have_no_square() -> None:
    point = np.full((468, 2), 7, np.float32)
    assert following.Anchor(SQUARE, point).moved(POINTS) is None
    shrunk = following.Anchor(SQUARE, POINTS).moved(point)
    assert shrunk is not None
    assert following.is_lost(SQUARE, shrunk)


@pytest.mark.parametrize(
    ("x", "side", "is_lost"),
    [
        (200, 150, False), (214, 150, False), (216, 150, True), (184, 150, True),
        (200, 172, False), (200, 174, True), (200, 128, True), (float("nan"), 150, True),
        (200, 0, True),
    ],
)  # fmt: skip
def test_a_face_is_lost_if_it_moves_or_grows_too_far(x: float, side: float, is_lost: bool) -> None:
    assert following.is_lost(SQUARE, mesh.Roi(x, 120, side, 0.1)) == is_lost


@pytest.mark.parametrize("name", ["astronaut", "hopper", "camera"])
def test_every_jump_of_the_report_is_confirmed_by_a_search(
    detector: Detector, photographs: Photographs, name: str
) -> None:
    (face,) = detector.detect([photographs[name]])[0]
    assert face.mesh is not None
    width = edges(face, photographs[name])[2] - edges(face, photographs[name])[0]
    side = mesh.roi_of_points(face.mesh).side
    assert following.LOST_RATIO * side < quality.JUMP_RATIO * width
    assert following.LOST_GROWTH < quality.RESIZED_RATIO


def test_calls_of_the_analysis_begin_at_the_same_frames_after_an_interruption() -> None:
    assert analysis.CHUNK_FRAMES % analysis.BATCH_FRAMES == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "hopper"])
@pytest.mark.parametrize(
    "matrix",
    [
        lambda i: similarity(1, 0, 12 * i, -5 * i),
        lambda i: similarity(1 + 0.04 * i, 0, -9 * i, -5 * i),
        lambda i: similarity(1, 2.5 * i, 8 * i, -8 * i),
    ],
    ids=["moving", "zooming", "turning"],
)
def test_a_followed_face_lies_where_the_picture_was_moved_to(
    detector: Detector, photographs: Photographs, name: str, matrix: Callable[[int], Matrix]
) -> None:
    size = photographs[name].shape[1], photographs[name].shape[0]
    frames = [moved(photographs[name], matrix(i), size) for i in range(FRAMES)]
    found = [face for (face,) in detector.detect(frames)]
    for index, face in enumerate(found):
        scale_turn, shift = matrix(index)[:, :2], matrix(index)[:, 2]
        expected = found[0].points @ scale_turn.T + shift
        width = np.ptp(expected[:, 0])
        assert np.hypot(*(face.points - expected).T).mean() < 0.03 * width
        at, centre = ([box.x1 + box.x2, box.y1 + box.y2] for box in (found[0].box, face.box))
        assert np.hypot(*(scale_turn @ at / 2 + shift - np.divide(centre, 2))) < 0.05 * width
        assert face.score == found[0].score  # none was searched


@pytest.mark.slow
def test_a_still_face_trembles_no_more_than_with_a_search_of_every_frame(
    detector: Detector, photographs: Photographs
) -> None:
    rng = np.random.default_rng(5)
    large = moved(photographs["astronaut"], similarity(2, 0, -40, -40), (960, 720))
    noises = [rng.normal(0, 4, large.shape).round().astype(np.int16) for _ in range(3 * FRAMES)]
    frames = [np.asarray(cv2.add(large, noise, dtype=cv2.CV_8U)) for noise in noises]
    followed = [faces for at in (0, 10, 20) for faces in detector.detect(frames[at : at + FRAMES])]

    def tremble(found: list[list[Face]]) -> float:
        boxes = [edges(face, large) for (face,) in found]
        return float(np.sqrt((np.diff(boxes, axis=0) ** 2).mean()))

    assert tremble(followed) < 1.3 * tremble(searched(detector, frames))


@pytest.mark.slow
@pytest.mark.parametrize("last", ["camera", "hopper", "cat"])
def test_after_a_change_of_scene_the_frame_is_searched(
    detector: Detector, photographs: Photographs, last: str
) -> None:
    size = (520, 520)
    first, second = (moved(photographs[n], np.eye(2, 3), size) for n in ("astronaut", last))
    found = detector.detect([first, second, first])
    for faces, alone in zip(found, searched(detector, [first, second, first]), strict=True):
        assert [face.box for face in faces] == [face.box for face in alone]


@pytest.mark.slow
def test_of_two_faces_the_one_that_leaves_is_missed_at_once(
    detector: Detector, photographs: Photographs
) -> None:
    frame = np.zeros((600, 1024, 3), np.uint8)
    frame[:512, :512], frame[:, 512:] = photographs["astronaut"], photographs["hopper"]
    alone = frame.copy()
    alone[:, 512:] = 40
    counts = [len(faces) for faces in detector.detect([alone, frame, frame, frame])]
    assert counts == [1, 1, 1, 1]  # the second one is found by the next search
    found = detector.detect([frame, frame, alone, alone])
    assert [len(faces) for faces in found] == [2, 2, 1, 1]
    assert all(faces[0].nose_point[0] > 512 for faces in found[:2])  # the largest first
