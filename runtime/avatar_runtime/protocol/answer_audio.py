"""Which content part each sample of an answer belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import server_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_runtime.protocol.audio_formats import AudioFormat

MAX_SEGMENTS: Final = 256
"""Changes from one part to another within an answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """A content part of an item."""

    item_id: str
    output_index: int = 0
    content_index: int = 0

    def ids(self, response_id: str) -> dict[str, object]:
        """Return the four fields that identify the part in events."""
        return server_events.content_part_ids(
            response_id, self.item_id, self.output_index, self.content_index
        )


@dataclass(frozen=True, slots=True)
class Cut:
    """A part whose audio was not played to its end."""

    part: Part
    audio_end_ms: int
    """How much of it was played, milliseconds from the start of the part."""


class AudioMap:
    """The parts of an answer's audio, in the order of its samples."""

    def __init__(self, audio: AudioFormat, fps: int) -> None:
        self._rate = audio.rate
        self._frame = audio.samples_per_frame(fps)
        self._segments: list[tuple[int, Part]] = []  # first sample, ascending
        self._samples = 0

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self._samples

    def add(self, part: Part, samples: int) -> None:
        """Add samples of a part.

        Raises:
            ProtocolError: the audio changes too often from part to part; nothing is added.
        """
        if not self._segments or self._segments[-1][1] != part:
            if len(self._segments) >= MAX_SEGMENTS:
                message = f"the audio changes {MAX_SEGMENTS} times between content parts"
                raise ProtocolError("invalid_value", message, limit=MAX_SEGMENTS)
            # Audio leaves in whole frames: the frame at the border belongs to the part before.
            first = -(-self._samples // self._frame) * self._frame
            self._segments.append((first, part))
        self._samples += samples

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, Part]]:
        """Yield the ranges of samples from `start` to `end` that belong to one part each."""
        for index, (first, part) in enumerate(self._segments):
            last = self._segments[index + 1][0] if index + 1 < len(self._segments) else end
            low, high = max(first, start), min(last, end)
            if low < high:
                yield low, high, part

    def cuts(self, played_ms: int) -> list[Cut]:
        """Return the parts that end later than `played_ms` of the answer."""
        played = played_ms * self._rate // 1000
        totals: dict[Part, int] = {}
        heard: dict[Part, int] = {}
        for low, high, part in self.split(0, self._samples):
            totals[part] = totals.get(part, 0) + high - low
            heard[part] = heard.get(part, 0) + max(0, min(high, played) - low)
        return [
            Cut(part, heard[part] * 1000 // self._rate)
            for part, total in totals.items()
            if heard[part] < total
        ]

    def durations(self, samples: int) -> dict[Part, int]:
        """Return the audio of each part within the first `samples`, milliseconds."""
        counted: dict[Part, int] = {}
        for low, high, part in self.split(0, samples):
            counted[part] = counted.get(part, 0) + high - low
        return {part: count * 1000 // self._rate for part, count in counted.items()}
