"""Which frames hold no speech, judged by energy alone, and how far the mouth is drawn around them.

Everything is decided on steps of 20 ms at fixed places of the sample counter, so that the
splitting of the sound into messages cannot show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEECH_DBFS: Final = -50.0
"""What counts as speech unless the settings say otherwise: their default is the same."""
HYSTERESIS_DB: Final = 6.0
"""Only steps so far below the level count towards silence: a breath keeps the mouth alive."""
HOLD_STEPS: Final = 6
"""Quiet steps in a row until silence begins: 120 ms, longer than the stops inside words."""
AHEAD_STEPS: Final = 6
"""Steps from a frame's start that its window hears, at every frame rate: 120 ms."""
_RAMP: Final = (2 / 3, 1 / 3)  # one picture each, 40 ms: closed or open again within 80 ms
_RAMP_STEPS: Final = 2  # of one picture at 25 frames a second
_FLOOR: Final = 1e-12  # of power, -120 dBFS: digital silence has a level too


class Gate:
    """Says of one step after another whether speech may be in it."""

    def __init__(self, level_dbfs: float) -> None:
        """`level_dbfs`: what a step's mean power must reach to be speech."""
        self._level_dbfs = level_dbfs
        self._open = False
        self._quiet = 0

    def hears_speech(self, samples: NDArray[np.float32]) -> bool:
        """Judge the next step by its own samples, float32 in [-1, 1]."""
        power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
        level = 10 * np.log10(max(power, _FLOOR))
        if level >= self._level_dbfs:
            self._open, self._quiet = True, 0
        elif level >= self._level_dbfs - HYSTERESIS_DB:
            self._quiet = 0
        else:
            self._quiet += 1
            self._open = self._open and self._quiet <= HOLD_STEPS
        return self._open


class Mouth:
    """How far the mouth is drawn in each frame, from the gate's word on every step.

    It opens in the pictures before speech, which the look-ahead has heard already, so that no
    onset is cut; it closes in the two pictures after it.
    """

    def __init__(self, level_dbfs: float) -> None:
        self._gate = Gate(level_dbfs)
        self._next = 0  # the first step that was not heard
        self._open: list[int] = []  # steps with speech, as far back as a frame looks

    @property
    def heard_steps(self) -> int:
        """Steps judged so far."""
        return self._next

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Judge the next step."""
        if self._gate.hears_speech(samples):
            self._open.append(self._next)
        self._next += 1

    def share(self, first_step: int, own_steps: int) -> float:
        """Return how much of a drawn mouth shows, 0 to 1; frames are asked for in order.

        `own_steps` of the frame begin at `first_step`; `AHEAD_STEPS` of it have been heard.
        """
        before = [step for step in self._open if step < first_step]
        self._open = before[-1:] + self._open[len(before) :]
        ahead = [step - first_step for step in self._open[len(before[-1:]) :]]
        opening = _ramp(ahead[0] - own_steps) if ahead and ahead[0] < AHEAD_STEPS else 0.0
        closing = _ramp(first_step - before[-1] - 1) if before else 0.0
        return max(opening, closing, float(bool(ahead) and ahead[0] < own_steps))


def _ramp(steps: int) -> float:
    """Return the share so many whole steps away from speech, beside its own picture."""
    place = max(0, steps) // _RAMP_STEPS
    return _RAMP[place] if place < len(_RAMP) else 0.0
