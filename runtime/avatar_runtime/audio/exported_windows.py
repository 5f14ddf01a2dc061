"""Windows of an utterance in the document of a session.

A document has the audio once. A window says which part of it is its context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.audio import resampling
from avatar_runtime.audio.exported_arrays import Samples
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Number, Table

if TYPE_CHECKING:
    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_WINDOWS: Final = 512
"""More than a session has in flight and unsent: 10 s at 25 frames a second, and what is ready."""
MAX_AUDIO_S: Final = 90
"""A context of 30 s, and what lies between the windows."""
SAMPLES: Final = Samples(MAX_AUDIO_S * resampling.RATE, "<f4")
_STEP: Final = 320  # samples of one feature step
_TABLE: Final[Table] = {
    "frame": Count(),
    "start": Count(),
    "end": Count(),
    "steps": Count(),
    "opacity": Number(0, 1),
}


@dataclass(frozen=True, slots=True)
class ExportedWindow:
    """A window without its samples; positions are feature steps of the utterance."""

    frame: int
    start: int
    end: int
    steps: int
    """Steps of the context with audio, from its start."""
    opacity: float
    """Of the generated mouth; 0 for a silent frame."""


def export(window: AudioWindow, start: int) -> dict[str, object]:
    """Return a window whose context begins at feature step `start` of the utterance."""
    exported = ExportedWindow(
        window.frame_index,
        start,
        start + len(window.context) // _STEP,
        window.steps,
        window.mouth_opacity,
    )
    return document_fields.export(exported, _TABLE)


def read(fields: StrictFields, begin: int, end: int, context_steps: int) -> ExportedWindow:
    """Return a window whose context lies between two feature steps.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    window = ExportedWindow(**document_fields.read(fields, _TABLE))
    is_within = begin <= window.start < window.end <= end
    size = window.end - window.start
    document_fields.check(
        is_within and window.steps <= size <= context_steps,
        fields,
        "end",
        f"the context must lie within steps {begin} to {end}, at most {context_steps}",
    )
    return window
