"""What the preparation knows of a face, whichever detector found it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from avatar_runtime.avatars.geometry import Box

OPEN_GAP: Final = 0.015
"""`Face.lip_gap` from which a mouth is open: 4 pixels of a face that is 200 pixels high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face of a frame; coordinates are pixels of the frame, x to the right, y down."""

    box: Box
    """The detector's own box, which is used where the landmarks give no usable face box."""
    score: float
    """Confidence of the detector, 0 to 1."""
    points: NDArray[np.float32]
    """`(n, 2)`: the landmarks whose extent bounds the face box (68 for DWPose)."""
    nose_point: tuple[float, float]
    """Point 29 of the 68 landmarks: the middle of the bridge of the nose."""
    lip_gap: float
    """Height of the opening between the inner lips, as a share of the face height; 0 if closed."""
    yaw_degrees: float
    """Rotation about the vertical axis, from -90 to 90; 0 if the face looks at the camera."""
    pitch_degrees: float
    roll_degrees: float
    presence: float
    """Probability that the landmarks lie on a face, 0 to 1; 1 if the model does not tell."""
    mesh: NDArray[np.float32] | None = None
    """`(468, 2)`: the whole face mesh, if the detector has one."""


class FaceDetector(Protocol):
    """Finds faces and their landmarks."""

    @property
    def name(self) -> str:
        """Name and version for the manifest."""
        ...

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Return the faces of each frame, the largest first.

        `frames` are `(h, w, 3) uint8` BGR and follow each other in the clip. The result of a call
        does not depend on earlier calls.
        """
        ...


class FaceParser(Protocol):
    """Labels the parts of a face."""

    @property
    def name(self) -> str:
        """Name and version for the manifest."""
        ...

    def parse(
        self, squares: Iterable[NDArray[np.uint8]], faces: Sequence[Face], crops: Sequence[Box]
    ) -> list[NDArray[np.uint8]]:
        """Return the class of each pixel, `(512, 512) uint8`, for each square.

        `squares` are the pictures of the crop boxes, `(512, 512, 3) uint8` BGR, padded with black
        outside the frame; they are made as they are taken, so a parser without a network pays for
        none. `crops` are these crop boxes in the frame, and `faces` the faces in
        them. The classes are those of `avatars.masks`.
        """
        ...
