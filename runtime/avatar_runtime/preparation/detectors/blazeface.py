"""The full-range face detector of MediaPipe: boxes and six points of each face.

Published as BlazeFace (arXiv:1907.05047) with the model card "MediaPipe Face Detection, full
range". The decoding follows MediaPipe's options for this model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime.preparation.detectors import model_files, regions, tflite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_SIDE: Final = 192
"""Side of the input, pixels."""
_STRIDE: Final = 4
_OUTPUTS: Final = ("reshaped_classifier_face_4", "reshaped_regressor_face_4")
_POINTS: Final = 6
_SCORE_LIMIT: Final = 80.0
"""Bound of the raw scores, so that the sigmoid does not overflow in float32."""
MIN_SCORE: Final = 0.5
"""MediaPipe's default `min_detection_confidence`."""
_MIN_OVERLAP: Final = 0.3
"""Intersection over union from which two boxes show the same face."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected face; coordinates are pixels of the frame."""

    score: float
    corners: NDArray[np.float64]
    """`(2, 2)`: top left and bottom right, `x, y`. They may lie outside the frame."""
    points: NDArray[np.float64]
    """`(6, 2)`: eye on the left and on the right of the picture, nose, mouth, both ears."""

    @property
    def side(self) -> float:
        """The longer side of the box."""
        return float((self.corners[1] - self.corners[0]).max())


class BlazeFace:
    """Finds faces in a frame. Not safe for use by two threads at once."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            AssetError: the model file is missing or unreadable.
        """
        self._model = tflite.TfliteModel(model_files.find(model_files.FULL_RANGE), _OUTPUTS)

    def looks(self, frame: NDArray[np.uint8]) -> Iterator[list[Detection]]:
        """Yield the faces of a frame, `(h, w, 3) uint8` BGR, the largest first, look by look.

        The first look is at the whole frame. The caller takes the next one only if it found no
        face: with a wide margin, for a face that fills the frame, and in tiles, for small ones.
        """
        height, width = frame.shape[:2]
        for group in regions.search_order(width, height):
            yield self._in_regions(frame, group)

    def _in_regions(
        self, frame: NDArray[np.uint8], group: Sequence[regions.Region]
    ) -> list[Detection]:
        candidates = [d for region in group for d in self._candidates(frame, region)]
        return sorted(suppress(candidates), key=lambda found: found.side, reverse=True)

    def _candidates(self, frame: NDArray[np.uint8], region: regions.Region) -> list[Detection]:
        square = regions.cut(frame, region, _SIDE)
        rgb = cv2.cvtColor(square, cv2.COLOR_BGR2RGB).astype(np.float32) / 127.5 - 1
        scores, boxes = self._model.run(rgb)
        return decode(scores.reshape(-1), boxes.reshape(len(_ANCHORS), -1), region)


def decode(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], region: regions.Region
) -> list[Detection]:
    """Return the detections of at least `MIN_SCORE` in pixels of the frame.

    `scores` is `(n,)`, before the sigmoid. `boxes` is `(n, 16)`: centre, size and six points, in
    pixels of the input; all but the size are relative to the anchor.
    """
    probabilities = 1 / (1 + np.exp(-np.clip(scores, -_SCORE_LIMIT, _SCORE_LIMIT)))
    found = []
    for index in np.flatnonzero(probabilities >= MIN_SCORE):
        pairs = boxes[index].reshape(-1, 2).astype(np.float64) / _SIDE
        centre, size = pairs[0] + _ANCHORS[index], pairs[1]
        if (size <= 0).any():
            continue
        found.append(
            Detection(
                score=float(probabilities[index]),
                corners=region.in_frame(np.stack([centre - size / 2, centre + size / 2])),
                points=region.in_frame(pairs[2 : 2 + _POINTS] + _ANCHORS[index]),
            )
        )
    return found


def suppress(candidates: Sequence[Detection]) -> list[Detection]:
    """Return one detection a face: the mean of those that overlap, weighted by their scores."""
    left = sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
    kept = []
    while left:
        same = [c for c in left if c is left[0] or overlap(left[0], c) > _MIN_OVERLAP]
        weights = np.array([c.score for c in same])
        kept.append(
            Detection(
                score=left[0].score,
                corners=np.average([c.corners for c in same], axis=0, weights=weights),
                points=np.average([c.points for c in same], axis=0, weights=weights),
            )
        )
        members = {id(c) for c in same}
        left = [c for c in left if id(c) not in members]
    return kept


def overlap(one: Detection, other: Detection) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    top_left = np.maximum(one.corners[0], other.corners[0])
    bottom_right = np.minimum(one.corners[1], other.corners[1])
    shared = float(np.prod(np.maximum(bottom_right - top_left, 0)))
    areas = sum(float(np.prod(d.corners[1] - d.corners[0])) for d in (one, other))
    return shared / (areas - shared)


def _anchors() -> NDArray[np.float64]:
    """Return the centres of the cells, row by row, `(n, 2)` in 0 to 1."""
    cells = _SIDE // _STRIDE
    rows, columns = np.indices((cells, cells))
    return (np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) / cells


_ANCHORS: Final = _anchors()
