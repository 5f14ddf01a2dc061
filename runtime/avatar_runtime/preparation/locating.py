"""Finds the face box of the followed person in each frame, one batch of frames after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from avatar_runtime.avatars import geometry
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import measures
from avatar_runtime.preparation.quality import FrameFacts
from avatar_runtime.preparation.tracking import Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.preparation.faces import Face, FaceDetector

_STATE: Final = 6


@dataclass(frozen=True, slots=True)
class Located:
    """What one frame shows."""

    facts: FrameFacts
    face: Face | None
    """The followed person's face, for the parser; `None` without a face or a detector."""


class Locator(Protocol):
    """Locates the face in consecutive frames."""

    def locate(self, frames: Sequence[NDArray[np.uint8]]) -> list[Located]:
        """Return what each of the next frames shows; `frames` are `(h, w, 3) uint8` BGR."""
        ...

    def state(self) -> NDArray[np.float64]:
        """Return `(6,) float64`: what later frames depend on."""
        ...

    def restore(self, state: NDArray[np.float64]) -> None:
        """Go on after the frames that led to a state."""
        ...


class DetectingLocator:
    """Follows one person with a face detector."""

    def __init__(self, detector: FaceDetector, version: str, bbox_shift: int = 0) -> None:
        self._detector = detector
        self._version, self._bbox_shift = version, bbox_shift
        self._track = Track()

    def locate(self, frames: Sequence[NDArray[np.uint8]]) -> list[Located]:
        found = self._detector.detect(frames)
        return [self._one(frame, faces) for frame, faces in zip(frames, found, strict=True)]

    def state(self) -> NDArray[np.float64]:
        box = self._track.box
        corners = (0, 0, 0, 0) if box is None else (box.x1, box.y1, box.x2, box.y2)
        return np.array([box is not None, *corners, self._track.missed], np.float64)

    def restore(self, state: NDArray[np.float64]) -> None:
        known, *corners, missed = map(int, state)
        self._track = Track(Box(*corners) if known else None, missed)

    def _one(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> Located:
        index, self._track = self._track.follow([face.box for face in faces])
        if index is None:
            return Located(FrameFacts(faces=len(faces)), None)
        face = faces[index]
        height, width = frame.shape[:2]
        box = geometry.face_box(
            face.points,
            face.nose_point,
            width,
            height,
            self._version,
            detector_box=face.box,
            bbox_shift=self._bbox_shift,
        )
        if not box.fits(width, height):
            return Located(FrameFacts(faces=len(faces)), None)
        facts = FrameFacts(
            faces=len(faces),
            box=box,
            yaw_degrees=face.yaw_degrees,
            pitch_degrees=face.pitch_degrees,
            presence=face.presence,
            lip_gap=face.lip_gap,
            sharpness=measures.sharpness(frame, box),
            lip_redness=measures.lip_redness(frame, face),
            outside_ratio=measures.outside_ratio(face, width, height),
        )
        return Located(facts, face)


class GivenLocator:
    """Takes face boxes that another program found; only sharpness is measured."""

    def __init__(self, boxes: Sequence[Box | None]) -> None:
        self._boxes = boxes
        self._at = 0

    def locate(self, frames: Sequence[NDArray[np.uint8]]) -> list[Located]:
        boxes = self._boxes[self._at : self._at + len(frames)]
        self._at += len(frames)
        return [self._one(frame, box) for frame, box in zip(frames, boxes, strict=True)]

    def state(self) -> NDArray[np.float64]:
        return np.array([self._at] + [0] * (_STATE - 1), np.float64)

    def restore(self, state: NDArray[np.float64]) -> None:
        self._at = int(state[0])

    @staticmethod
    def _one(frame: NDArray[np.uint8], box: Box | None) -> Located:
        if box is None or not box.fits(frame.shape[1], frame.shape[0]):
            return Located(FrameFacts(faces=0), None)
        return Located(FrameFacts(faces=1, box=box, sharpness=measures.sharpness(frame, box)), None)
