"""Voice activity by energy above the noise, and the envelope of the mouth around speech.

Every decision is made on steps of 20 ms at fixed positions of the sample counter, so that it does
not depend on how the audio is split into messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from avatar_runtime.audio import noise
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Flag, List, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.protocol.strict_fields import StrictFields

SPEECH_DBFS: Final = -50.0
"""Default level of speech; the settings have the same default."""
HYSTERESIS_DB: Final = 6.0
"""A step counts as silent only this far below the level, so that a breath keeps the gate open."""
HOLD_STEPS: Final = 8
"""Silent steps in a row before the gate closes: 160 ms, longer than the stops inside words."""
HOLD_STEPS_IN_NOISE: Final = 12
"""The same in noise, which covers the quiet ends of words: 240 ms."""
AHEAD_STEPS: Final = 6
"""Steps from the start of a frame that its window contains, at every frame rate: 120 ms."""
_RAMP: Final = (2 / 3, 1 / 3)  # one frame each, 40 ms: closed or open again within 80 ms
_RAMP_STEPS: Final = 2  # of one frame at 25 frames a second
_LOUDEST_NOISE: Final = 10 ** (-36 / 10)  # a steady sound above -36 dBFS may be a sung vowel
_QUIET_DB: Final = 12.0  # below the level: a noise whose peaks cannot keep the gate open
_FLOOR_DB: Final = 10.0  # below the level: what leaks from a hum into quiet bands changes a lot

_MAX_SPEECH_STEPS: Final = 64  # a frame needs fewer than 20
_GATE_STATE: Final[Table] = {"_open": Flag(), "_silent_steps": Count()}
_ENVELOPE_STATE: Final[Table] = {"_next": Count(), "_speech": List(Count(), _MAX_SPEECH_STEPS)}


class Gate(Protocol):
    """Decides for each step whether it may contain speech."""

    def is_speech(self, samples: NDArray[np.float32]) -> bool:
        """Classify the next step by its samples, float32 in [-1, 1]."""
        ...


class VoiceActivityGate:
    """Decides for each step whether it may contain speech.

    A step is speech if its power above 200 Hz is at least the level. Where there is noise near
    the level or above it, at least one band must also rise out of the learned noise.
    """

    def __init__(self, level_dbfs: float) -> None:
        """`level_dbfs` is the lowest mean power of speech, without DC and hum."""
        self._level = _power(level_dbfs)
        self._closing_level = _power(level_dbfs - HYSTERESIS_DB)
        self._least_floor = _power(level_dbfs - _FLOOR_DB)
        self._quiet = _power(level_dbfs - _QUIET_DB)
        self._band_power = noise.BandPower()
        self._floor = noise.NoiseFloor()
        self._open = False
        self._silent_steps = 0

    def is_speech(self, samples: NDArray[np.float32]) -> bool:
        """Classify the next step by its samples, float32 in [-1, 1].

        Only the last step of the audio may have fewer than `noise.STEP` samples.
        """
        if not len(samples):
            return self._close(HOLD_STEPS)
        bands = self._band_power.measure(samples)
        above_noise, hold = self._compare_with_noise(bands)
        self._floor.push(bands)
        if above_noise and bands[-1] >= self._level:
            self._open, self._silent_steps = True, 0
        elif above_noise and bands[-1] >= self._closing_level:
            self._silent_steps = 0
        else:
            return self._close(hold)
        return self._open

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        return {
            **document_fields.export(self, _GATE_STATE),
            **document_fields.export(self._band_power, noise.BandPower.STATE),
            "floor": document_fields.export(self._floor, noise.NoiseFloor.STATE),
        }

    def restore(self, fields: StrictFields) -> None:
        """Continue another gate of the same level from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _GATE_STATE)
        document_fields.restore(self._band_power, fields, noise.BandPower.STATE)
        document_fields.restore(self._floor, fields.nested("floor"), noise.NoiseFloor.STATE)

    def _compare_with_noise(self, bands: NDArray[np.float64]) -> tuple[bool, int]:
        """Return whether a band is above the noise, and the steps of silence to wait for."""
        floor = self._floor.minimum()
        if floor is None or not self._quiet <= floor[-1] <= _LOUDEST_NOISE:
            return True, HOLD_STEPS
        limits = np.maximum(floor, self._least_floor) * noise.RATIOS
        hold = HOLD_STEPS_IN_NOISE if floor[-1] >= self._closing_level else HOLD_STEPS
        return bool((bands >= limits).any()), hold

    def _close(self, hold: int) -> bool:
        self._silent_steps += 1
        self._open = self._open and self._silent_steps <= hold
        return self._open


class MouthEnvelope:
    """Opacity of the generated mouth in each frame, from the voice activity of each step.

    The mouth opens in the frames before speech, which the look-ahead already contains, so that
    no onset is cut. It closes in the two frames after speech.
    """

    def __init__(self, gate: Gate) -> None:
        """`gate` classifies each step once, in order."""
        self._gate = gate
        self._next = 0  # the first step that is not classified
        self._speech: list[int] = []  # steps with speech, as far back as a frame needs them

    @property
    def steps_seen(self) -> int:
        """Number of classified steps."""
        return self._next

    def push(self, samples: NDArray[np.float32]) -> None:
        """Classify the next step."""
        if self._gate.is_speech(samples):
            self._speech.append(self._next)
        self._next += 1

    def opacity(self, first_step: int, own_steps: int) -> float:
        """Return the opacity of the generated mouth in a frame, 0 to 1; call it in frame order.

        The `own_steps` of the frame begin at `first_step`, from which `AHEAD_STEPS` must have
        been pushed.
        """
        before = [step for step in self._speech if step < first_step]
        self._speech = before[-1:] + self._speech[len(before) :]
        ahead = [step - first_step for step in self._speech[len(before[-1:]) :]]
        opening = _ramp(ahead[0] - own_steps) if ahead and ahead[0] < AHEAD_STEPS else 0.0
        closing = _ramp(first_step - before[-1] - 1) if before else 0.0
        return max(opening, closing, float(bool(ahead) and ahead[0] < own_steps))

    def export(self) -> dict[str, object]:
        """Return the state as plain values, without that of the gate."""
        return document_fields.export(self, _ENVELOPE_STATE)

    def restore(self, fields: StrictFields) -> None:
        """Continue another envelope from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _ENVELOPE_STATE)


def _ramp(steps: int) -> float:
    """Return the opacity of a frame that is a number of whole steps away from speech."""
    index = max(0, steps) // _RAMP_STEPS
    return _RAMP[index] if index < len(_RAMP) else 0.0


def _power(dbfs: float) -> float:
    return float(10 ** (dbfs / 10))
