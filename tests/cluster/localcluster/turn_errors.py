"""The turns in a series of probabilities, and what is wrong with them.

An utterance without a turn is missed; a turn that starts outside an utterance is false. A start is
late over 200 ms after the speech, a stop over 200 ms after the 500 ms of silence that end a turn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.protocol.turn_detection import (
    WINDOW_MS,
    Boundary,
    SpeechSegmenter,
    TurnDetection,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LATE_S: Final = 0.2
_EARLY_S: Final = 0.1
"""A turn that starts this much before the speech, or more, has another cause."""


@dataclass(frozen=True, slots=True)
class Series:
    """The probabilities that a detector gives for one utterance in one noise."""

    detector: str
    kind: str
    noise: str
    ratio_db: int | None
    """Speech over noise; `None` without noise."""
    start_s: float
    end_s: float
    """Where the speech is."""
    rates: Sequence[float]
    audio_s: float
    cpu_s: float


@dataclass(slots=True)
class Errors:
    """The errors in some utterances."""

    utterances: int = 0
    missed: int = 0
    false: int = 0
    late_start: int = 0
    late_stop: int = 0
    split: int = 0
    """Utterances in which more than one turn starts."""

    @property
    def total(self) -> int:
        """All errors."""
        return self.missed + self.false + self.late_start + self.late_stop + self.split

    def add(self, other: Errors) -> None:
        """Add the errors in other utterances."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def describe(self) -> dict[str, Any]:
        """Return the counts for the record."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def turns(rates: Sequence[float], detection: TurnDetection) -> list[tuple[float, float]]:
    """Return when each turn is reported to start and to stop, seconds."""
    segmenter = SpeechSegmenter()
    found: list[tuple[float, float]] = []
    for rate in rates:
        now = (segmenter.windows + 1) * WINDOW_MS / 1000
        match segmenter.push(rate, detection):
            case Boundary.START:
                found.append((now, float("inf")))
            case Boundary.STOP:
                found[-1] = (found[-1][0], now)
    return found


def errors_in(series: Series, detection: TurnDetection) -> Errors:
    """Return what is wrong with the turns in one utterance."""
    silence_s = detection.silence_duration_ms / 1000
    return judge(turns(series.rates, detection), series.start_s, series.end_s, silence_s)


def judge(
    found: Sequence[tuple[float, float]], start_s: float, end_s: float, silence_s: float
) -> Errors:
    """Return what is wrong with turns if speech is from `start_s` to `end_s`.

    `silence_s` is the silence that ends a turn.
    """
    first, last = start_s - _EARLY_S, end_s + LATE_S
    own = [turn for turn in found if first <= turn[0] <= last]
    errors = Errors(utterances=1, false=len(found) - len(own), split=int(len(own) > 1))
    if not own:
        errors.missed = 1
        return errors
    errors.late_start = int(own[0][0] > start_s + LATE_S)
    errors.late_stop = int(own[-1][1] > end_s + silence_s + LATE_S)
    return errors


def count(found: Sequence[Series], detection: TurnDetection) -> Errors:
    """Return the errors in some utterances."""
    total = Errors()
    for each in found:
        total.add(errors_in(each, detection))
    return total
