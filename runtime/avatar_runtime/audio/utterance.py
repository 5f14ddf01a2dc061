"""One utterance, split into the audio windows from which video frames are generated.

The frames of a group, the start of its context and the moment at which it is complete are fixed
positions of the sample counter. Neither the size nor the timing of the messages with the audio
can change a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.audio import energy, exported_windows, resampling
from avatar_runtime.batching.frames import GROUP_FRAMES, AudioWindow
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Data, Flag, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.protocol.strict_fields import StrictFields

STEP: Final = 320
"""Samples of one feature step: 20 ms at 16 kHz."""
STEPS_PER_S: Final = 50
STEPS_PER_FRAME: Final = 10
"""Steps of one frame's window."""
STEPS_BEFORE: Final = 4
"""Steps of the window that lie before the frame starts, at every frame rate."""
CONTEXT_S: Final = 30
"""Seconds of audio in one context of the published audio encoder."""
_GROWING: Final = (0, 1, 2)  # first frames of groups 0 to 2
_STATE: Final[Table] = {
    "_context_steps": Count(),
    "_extra_steps": Count(),
    "_odd": Data(1),
    "_samples": Count(),
    "_finished": Flag(),
    "_next_frame": Count(),
}


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """How audio is split into windows."""

    lookahead_ms: int = 0
    """Audio after the trained window that the encoder also gets; frames wait for it."""
    silence_dbfs: float | None = None
    """Level below which the source frame is shown; `None` generates every frame."""


class Utterance:
    """Takes PCM16 and returns exactly one window for each video frame, in order.

    A window is ready when the 120 ms of audio from the start of the last frame of its group are
    there. Groups have 1, 1, 2, 2, ... frames: the first frame is ready early, later frames share
    an encode.
    """

    def __init__(
        self,
        rate: int = 24_000,
        fps: int = 25,
        context_s: int = CONTEXT_S,
        options: AudioOptions | None = None,
    ) -> None:
        """`options`: `None` generates every frame, from the trained window."""
        options = options or AudioOptions()
        self._rate = rate
        self._extra_steps = options.lookahead_ms * STEPS_PER_S // 1000
        self._fps = fps
        self._context_steps = context_s * STEPS_PER_S
        self._resampler = resampling.Resampler(rate)
        level = options.silence_dbfs
        self._mouth: energy.MouthEnvelope | None = None
        if level is not None:
            self._gate = energy.VoiceActivityGate(level)
            self._mouth = energy.MouthEnvelope(self._gate)
        self._odd = b""  # the first byte of a sample that is split between two messages
        self._samples = 0
        self._finished = False
        self._next_frame = 0
        # Windows hold views of this array, so samples are only appended to it.
        self._buffer = np.zeros(2 * self._context_steps * STEP, np.float32)
        self._base = 0  # 16 kHz position of the buffer's first sample
        self._fill = 0  # samples in the buffer

    @property
    def samples(self) -> int:
        """Samples appended so far, at the rate of the input."""
        return self._samples

    @property
    def frames_total(self) -> int:
        """Frames that cover every sample so far; the last one may be padded with silence."""
        return -(-self._samples * self._fps // self._rate)

    def append(self, pcm: bytes) -> None:
        """Append little-endian mono PCM16 of any length; a split sample is joined again.

        Raises:
            ValueError: the utterance is finished.
        """
        if self._finished:
            raise ValueError("the utterance is finished and takes no more audio")
        data = self._odd + pcm if self._odd else pcm
        whole = len(data) // 2 * 2
        self._odd = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").astype(np.float64) / 32768.0
        self._samples += len(samples)
        self._store(self._resampler.push(samples))

    def finish(self) -> None:
        """End the audio: every remaining window becomes ready; half a sample is discarded."""
        if not self._finished:
            self._finished = True
            self._store(self._resampler.finish())

    def take(self) -> Sequence[AudioWindow]:
        """Return the windows that became ready since the last call."""
        ready: list[AudioWindow] = []
        while (group := self._ready_group()) is not None:
            ready.extend(group)
        return ready

    def export(self, windows: Sequence[AudioWindow]) -> dict[str, object]:
        """Return the state as plain values, with windows of `take` that are needed again.

        The windows are the newest ones, in order and without a gap. The document has the audio
        that they and later windows need: at most one context and what lies between them.
        """
        _, last = group_of(self._next_frame)
        start = max(0, self._end_step(last) - self._context_steps) * STEP
        starts = [self._first_step(each.frame_index) - each.first_step for each in windows]
        begin = min([start, self._base + self._fill, *(each * STEP for each in starts)])
        older = [(at * STEP, each.context) for at, each in zip(starts, windows, strict=True)]
        return {
            **document_fields.export(self, _STATE),
            "resampler": self._resampler.export(),
            "mouth": (
                None
                if self._mouth is None
                else {**self._mouth.export(), "gate": self._gate.export()}
            ),
            "begin": begin,
            "audio": exported_windows.SAMPLES.export(self._samples_from(begin, older), 0.0),
            "windows": [
                exported_windows.export(each, at) for at, each in zip(starts, windows, strict=True)
            ],
        }

    def restore(self, fields: StrictFields) -> Sequence[AudioWindow]:
        """Continue another utterance of the same options from what it has exported.

        Return the windows that were exported with it.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        for name, own in (
            ("_context_steps", self._context_steps),
            ("_extra_steps", self._extra_steps),
        ):
            document_fields.check(
                fields.value(name.lstrip("_")) == own, fields, name.lstrip("_"), f"must be {own}"
            )
        document_fields.restore(self, fields, _STATE)
        self._resampler.restore(fields.nested("resampler"))
        mouth = document_fields.optional(fields, "mouth")
        document_fields.check(
            (mouth is None) == (self._mouth is None), fields, "mouth", "must fit the voice gate"
        )
        if self._mouth is not None and mouth is not None:
            self._mouth.restore(mouth)
            self._gate.restore(mouth.nested("gate"))
        self._base = fields.integer("begin", 0, document_fields.MAX_COUNT)
        samples = exported_windows.SAMPLES.read(fields, "audio", 0.0)
        self._fill = len(samples)
        self._buffer = np.zeros(2 * self._context_steps * STEP + self._fill, np.float32)
        self._buffer[: self._fill] = samples
        self._check_audio(fields)
        views: dict[tuple[int, int], memoryview] = {}
        restored = []
        for found in fields.objects("windows", exported_windows.MAX_WINDOWS):
            restored.append(self._restore_window(found, views))
        first = self._next_frame - len(restored)
        document_fields.check(
            [each.frame_index for each in restored] == list(range(first, self._next_frame)),
            fields,
            "windows",
            f"must be the frames before {self._next_frame}",
        )
        return restored

    def _check_audio(self, fields: StrictFields) -> None:
        """Check that the audio of a document reaches as far as the state needs it."""
        first = self._next_frame * STEPS_PER_S // self._fps
        _, last = group_of(self._next_frame)
        needed = max(0, self._end_step(last) - self._context_steps)
        if self._mouth is not None:
            needed = min(needed, self._mouth.steps_seen)
            document_fields.check(
                self._mouth.steps_seen <= first + energy.AHEAD_STEPS,
                fields,
                "mouth",
                f"must not be ahead of frame {self._next_frame}",
            )
        document_fields.check(
            self._base % STEP == 0 and self._base <= needed * STEP,
            fields,
            "begin",
            f"must be a whole step, at most {needed * STEP}",
        )

    def _restore_window(
        self, fields: StrictFields, views: dict[tuple[int, int], memoryview]
    ) -> AudioWindow:
        base, end = self._base // STEP, (self._base + self._fill) // STEP
        window = exported_windows.read(fields, base, end, self._context_steps)
        key = window.start, window.end
        if key not in views:
            views[key] = self._view(window.start * STEP, window.end * STEP)
        return AudioWindow(
            window.frame,
            group_of(window.frame)[0],
            views[key],
            self._first_step(window.frame) - window.start,
            window.steps,
            silent=not window.opacity,
            mouth_opacity=window.opacity,
        )

    def _samples_from(
        self, begin: int, older: Sequence[tuple[int, memoryview]]
    ) -> NDArray[np.float32]:
        """Return the 16 kHz samples from a position on; `older` has those before the buffer."""
        pieces = []
        for start, context in older:
            if start <= begin < min(self._base, start + len(context)):
                piece = np.asarray(context)[begin - start : self._base - start]
                pieces.append(piece)
                begin += len(piece)
        return np.concatenate([*pieces, self._buffer[begin - self._base : self._fill]])

    def _ready_group(self) -> list[AudioWindow] | None:
        first = self._next_frame
        number, last = group_of(first)
        end = self._end_step(last)
        if self._finished:
            last = min(last, self.frames_total - 1)
            if last < first:
                return None
            self._store(np.zeros(max(0, end * STEP - self._base - self._fill), np.float32))
        elif self._base + self._fill < end * STEP:
            return None
        start = max(0, end - self._context_steps)
        context = self._view(start * STEP, end * STEP)
        self._next_frame = last + 1
        opacities = [self._mouth_opacity(i) for i in range(first, last + 1)]
        return [
            AudioWindow(
                i,
                number,
                context,
                self._first_step(i) - start,
                min(end, self._steps_total(i, end)) - start,
                silent=not opacity,
                mouth_opacity=opacity,
            )
            for i, opacity in enumerate(opacities, first)
        ]

    def _first_step(self, frame: int) -> int:
        return frame * STEPS_PER_S // self._fps - STEPS_BEFORE

    def _end_step(self, frame: int) -> int:
        """Return the step after the last one that a frame needs."""
        return self._first_step(frame) + STEPS_PER_FRAME + self._extra_steps

    def _steps_total(self, frame: int, at_least: int) -> int:
        """Return the steps with audio that a frame may read, or `at_least` before the end.

        As in MuseTalk, whose features end with the last whole step of the audio. Only the frame
        that MuseTalk does not generate, since the audio ends within it, reads its own steps of
        the padding: its sound would be missing otherwise.
        """
        if not self._finished:
            return at_least
        if frame < self._samples * self._fps // self._rate:
            return self._samples * STEPS_PER_S // self._rate
        return self.frames_total * STEPS_PER_S // self._fps

    def _mouth_opacity(self, frame: int) -> float:
        """Return the opacity of the generated mouth in the next frame, whose window is ready."""
        if self._mouth is None:
            return 1.0
        first = frame * STEPS_PER_S // self._fps
        for step in range(self._mouth.steps_seen, first + energy.AHEAD_STEPS):
            begin = step * STEP - self._base
            self._mouth.push(self._buffer[begin : min(begin + STEP, self._fill)])
        own_steps = (frame + 1) * STEPS_PER_S // self._fps - first
        return min(self._mouth.opacity(first, own_steps), self._end_opacity(frame, first))

    def _end_opacity(self, frame: int, first_step: int) -> float:
        """Return the upper limit at the end of the audio: the last frame is the source frame.

        Only frames that need audio past the end are limited, since the others may have been sent
        before the end was known.
        """
        if not self._finished:
            return 1.0
        left = self.frames_total - 1 - frame
        needed = (first_step + energy.AHEAD_STEPS) * STEP
        if left > 1 or needed * self._rate <= self._samples * resampling.RATE:
            return 1.0
        return 0.5 * left

    def _view(self, begin: int, end: int) -> memoryview:
        view = self._buffer[begin - self._base : end - self._base]
        return view.data.toreadonly()

    def _store(self, samples: NDArray[np.float32]) -> None:
        if self._fill + len(samples) > len(self._buffer):
            self._grow(len(samples))
        self._buffer[self._fill : self._fill + len(samples)] = samples
        self._fill += len(samples)

    def _grow(self, more: int) -> None:
        """Copy the samples that windows still need to a new array; old views keep the old one."""
        _, last = group_of(self._next_frame)
        start = max(0, self._end_step(last) - self._context_steps) * STEP
        kept = self._buffer[start - self._base : self._fill]
        self._buffer = np.zeros(2 * self._context_steps * STEP + len(kept) + more, np.float32)
        self._buffer[: len(kept)] = kept
        self._base, self._fill = start, len(kept)


def group_of(frame: int) -> tuple[int, int]:
    """Return the number of the frame's group and the last frame of that group."""
    if frame < _GROWING[-1]:
        number = sum(frame >= first for first in _GROWING) - 1
        return number, _GROWING[number + 1] - 1
    later = (frame - _GROWING[-1]) // GROUP_FRAMES
    return len(_GROWING) - 1 + later, _GROWING[-1] + (later + 1) * GROUP_FRAMES - 1
