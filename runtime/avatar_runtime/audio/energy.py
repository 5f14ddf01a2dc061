"""Which frames hold no speech, judged by their energy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPEN_DBFS: Final = -45.0
"""A frame at least this loud opens the gate."""
CLOSE_DBFS: Final = -50.0
"""Only frames below this count towards closing it."""
HOLD_FRAMES: Final = 3
"""Quiet frames in a row until the gate closes: stops inside words keep the mouth moving."""


class Gate:
    """Says of one frame after another whether it is silent, with hysteresis in level and time."""

    def __init__(self) -> None:
        self._open = False
        self._quiet = 0

    def is_silent(self, samples: NDArray[np.float32]) -> bool:
        """Judge the next frame by its own samples, float32 in [-1, 1]."""
        power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
        level = 10 * np.log10(max(power, 1e-12))
        if level >= OPEN_DBFS:
            self._open, self._quiet = True, 0
        elif level >= CLOSE_DBFS:
            self._quiet = 0
        else:
            self._quiet += 1
            self._open = self._open and self._quiet < HOLD_FRAMES
        return not self._open
