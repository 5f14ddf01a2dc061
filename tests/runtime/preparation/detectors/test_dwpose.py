"""DWPose's decoding, with a made ONNX network of the published interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avatar_runtime import errors
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation.detectors import dwpose, landmarks68
from avatar_runtime.preparation.faces import Face

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Points = NDArray[np.int64]


class Faces:
    """A detector that always finds the same faces."""

    name = "fixed"

    def __init__(self, *faces: Face) -> None:
        self.faces = faces

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        return [list(self.faces) for _ in frames]


def face(box: Box) -> Face:
    points = np.array([[box.x1, box.y1], [box.x2, box.y2]], np.float32)
    return Face(
        box=box,
        score=0.9,
        points=points,
        nose_point=(0, 0),
        lip_gap=0.5,
        yaw_degrees=0.0,
        pitch_degrees=0.0,
        roll_degrees=0.0,
        presence=1.0,
    )


def write(path: Path, bins: Points, *, keypoints: int = 133, width: int = 288) -> None:
    """Write a network whose points lie at `(133, 2)` bins, whatever the picture shows.

    For the mirrored picture, whose left half is brighter than its right one, they lie at the
    mirrored places of the points of the other side.
    """
    other = np.arange(keypoints)
    other[dwpose.FACE] = landmarks68.mirrored() + 23
    x, y = (np.zeros((1, keypoints, size), np.float32) for size in (width * 2, 768))
    mirrored_x, mirrored_y = x.copy(), y.copy()
    for point, (column, row) in enumerate(bins):
        x[0, point, column], y[0, point, row] = 1, 1
    for point in range(keypoints):
        column, row = bins[other[point]]
        mirrored_x[0, point, width * 2 - 1 - column], mirrored_y[0, point, row] = 1, 1
    arrays = {"x": x, "y": y, "mx": mirrored_x, "my": mirrored_y}
    arrays |= {"first": np.array([60], np.int64), "last": np.array([width - 61], np.int64)}
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["columns"], axes=[1, 2], keepdims=0),
        helper.make_node("Gather", ["columns", "first"], ["a"], axis=1),
        helper.make_node("Gather", ["columns", "last"], ["b"], axis=1),
        helper.make_node("Greater", ["a", "b"], ["is_mirrored"]),
        helper.make_node("Where", ["is_mirrored", "mx", "x"], ["simcc_x"]),
        helper.make_node("Where", ["is_mirrored", "my", "y"], ["simcc_y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "dwpose",
        [info("input", TensorProto.FLOAT, [1, 3, 384, width])],
        [info(name, TensorProto.FLOAT, None) for name in ("simcc_x", "simcc_y")],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture
def bins() -> Points:
    rng = np.random.default_rng(3)
    return np.stack([rng.integers(0, 576, 133), rng.integers(0, 768, 133)], axis=1)


def gradient(width: int, height: int) -> NDArray[np.uint8]:
    """Return a frame that is brighter on the right."""
    row = np.linspace(10, 250, width).astype(np.uint8)
    return np.repeat(np.repeat(row[None, :, None], 3, 2), height, 0)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1000, 200)])
def test_points_of_the_input_are_found_in_the_frame(
    tmp_path: Path, bins: Points, width: int, height: int
) -> None:
    path = tmp_path / "dw-ll_ucoco_384.onnx"
    write(path, bins)
    found = dwpose.DWPose(path, Faces()).points(gradient(width, height))
    # The whole frame is the box: padded by 1.25, then widened to 3:4, around its middle.
    side = max(width * 1.25 / 288, height * 1.25 / 384)
    expected = (bins[23:91] / 2 - (144, 192)) * side + (width / 2, height / 2)
    assert found.shape == (68, 2)
    assert np.abs(found - expected).max() < 1e-3


def test_the_face_under_the_points_gets_them(tmp_path: Path, bins: Points) -> None:
    path = tmp_path / "dw-ll_ucoco_384.onnx"
    write(path, bins)
    points = dwpose.DWPose(path, Faces()).points(gradient(640, 480))
    x, y = map(int, points[29])
    under, away = face(Box(x - 20, y - 20, x + 20, y + 20)), face(Box(x + 40, y, x + 60, y + 20))
    detector = dwpose.DWPose(path, Faces(under, away))
    ((first, second),) = detector.detect([gradient(640, 480)])
    assert np.array_equal(first.points, points)
    assert first.nose_point == pytest.approx(tuple(points[29]))
    assert first.box == under.box
    assert second is away
    assert detector.name == "dwpose-ucoco-384 with fixed"


def test_frames_without_a_face_have_none(tmp_path: Path, bins: Points) -> None:
    path = tmp_path / "dw-ll_ucoco_384.onnx"
    write(path, bins)
    assert dwpose.DWPose(path, Faces()).detect([gradient(64, 48)]) == [[]]


def test_the_mirrored_points_are_an_involution_that_keeps_the_middle() -> None:
    other = landmarks68.mirrored()
    assert sorted(other) == list(range(68))
    assert np.array_equal(other[other], np.arange(68))
    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert [n for n in range(68) if other[n] == n] == middle


@pytest.mark.parametrize(
    ("content", "fault"), [(None, "does not exist"), (b"x", "is not an ONNX file that can be read")]
)
def test_a_file_that_is_no_network_is_refused(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "dw.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.AssetError) as caught:
        dwpose.DWPose(path, Faces())
    assert str(caught.value) == f"{path}: {fault}"


def test_another_network_is_refused(tmp_path: Path, bins: Points) -> None:
    path = tmp_path / "dw.onnx"
    write(path, bins[:100], keypoints=100)
    with pytest.raises(errors.AssetError, match=r"has outputs of the shapes \[\[1, 100, 576\]"):
        dwpose.DWPose(path, Faces())
