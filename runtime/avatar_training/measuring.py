"""Measures the opening of the mouth in final pixels, independently of the trained networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_training.visemes import Floats

Picture = npt.NDArray[np.uint8]
_ROWS: Final = (0.62, 0.93)
_COLUMNS: Final = (0.22, 0.78)
"""The region of the mouth in a face box."""
_SIZE: Final = (28, 24)
_RIDGE: Final = 3e-3
_MAX_LAG: Final = 8


def mouth_area(face: Picture) -> Picture:
    """Return the region of the mouth of a face-box image."""
    height, width = face.shape[:2]
    return face[
        round(height * _ROWS[0]) : round(height * _ROWS[1]),
        round(width * _COLUMNS[0]) : round(width * _COLUMNS[1]),
    ]


def cave_area(face: Picture) -> float:
    """Return the share of the mouth region that is as dark as the inside of a mouth.

    The threshold is half of the brightness of the surrounding skin; nothing is fitted.
    """
    area = mouth_area(face).astype(np.float32)
    brightness = area.max(axis=2)
    skin = float(np.percentile(brightness, 80))
    return float(np.mean(brightness < 0.5 * skin + 8))


@dataclass(frozen=True, slots=True)
class OpeningGauge:
    """A ridge regression from the mouth's pixels to its opening, fitted to drawn faces."""

    mean: Floats
    coefficients: Floats
    offset: float

    @classmethod
    def fit(cls, faces: Sequence[Picture], openings: Floats) -> OpeningGauge:
        """Fit to face-box images with known openings."""
        features = np.stack([_features(face) for face in faces])
        mean = features.mean(axis=0)
        centred = features - mean
        target = openings - openings.mean()
        # There are fewer faces than pixels, so solve the dual problem.
        kernel = centred @ centred.T
        kernel[np.diag_indices_from(kernel)] += _RIDGE * np.trace(kernel) / len(kernel)
        coefficients = centred.T @ np.linalg.solve(kernel, target)
        return cls(mean, coefficients.astype(np.float32), float(openings.mean()))

    def read(self, faces: Sequence[Picture]) -> Floats:
        """Return the opening of each face-box image."""
        features = np.stack([_features(face) for face in faces])
        return ((features - self.mean) @ self.coefficients + self.offset).astype(np.float32)


def correlation(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation; 0 if one of them does not vary."""
    if np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(measured: Floats, true: Floats) -> int:
    """Return the lag of `measured` behind `true` in frames with the highest correlation."""

    def agreement(lag: int) -> float:
        count = len(true) - abs(lag)
        late, early = max(lag, 0), max(-lag, 0)
        return correlation(measured[late : late + count], true[early : early + count])

    return max(range(-_MAX_LAG, _MAX_LAG + 1), key=agreement)


def _features(face: Picture) -> Floats:
    small = cv2.resize(mouth_area(face), _SIZE, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel() / np.float32(255)
