"""One stretch of speech, cut into the windows from which video frames are computed.

Everything lies at fixed positions of the sample counter: which frames form a group, where a
group's context begins and when it is complete. So neither the size nor the timing of the
messages that brought the sound can change a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime.audio import energy, resampling
from avatar_runtime.batching.frames import GROUP_FRAMES, AudioWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STEP: Final = 320
"""Samples of one feature step: 20 ms at 16 kHz."""
STEPS_PER_S: Final = 50
STEPS_PER_FRAME: Final = 10
"""Steps of one frame's window."""
STEPS_BEFORE: Final = 4
"""Steps of the window that lie before the frame starts, at every frame rate."""
CONTEXT_S: Final = 30
"""What the published audio encoder hears at once."""
_GROWING: Final = (0, 1, 2)  # first frames of groups 0 to 2


@dataclass(frozen=True, slots=True)
class Hearing:
    """How sound becomes windows."""

    lookahead_ms: int = 0
    """Sound past the trained window that the encoder hears too; frames wait as much longer."""
    silence_dbfs: float | None = None
    """Level below which nothing is drawn; `None` draws every frame."""


class Utterance:
    """Takes PCM16 and gives exactly one window for each video frame, in order.

    A window is ready 120 ms of sound after its frame's start, rounded up to its group. Groups
    grow 1, 1, 2, 2, ... frames: the first picture is soon there, later ones share an encode.
    """

    def __init__(
        self,
        rate: int = 24_000,
        fps: int = 25,
        context_s: int = CONTEXT_S,
        hearing: Hearing | None = None,
    ) -> None:
        """`hearing`: `None` draws every frame from the trained window."""
        hearing = hearing or Hearing()
        self._rate = rate
        self._extra_steps = hearing.lookahead_ms * STEPS_PER_S // 1000
        self._fps = fps
        self._context_steps = context_s * STEPS_PER_S
        self._resampler = resampling.Resampler(rate)
        level = hearing.silence_dbfs
        self._mouth = None if level is None else energy.Mouth(level)
        self._odd = b""  # first byte of a sample that a message border cut
        self._samples = 0
        self._finished = False
        self._next_frame = 0
        # Views of this array travel with windows: it is only ever appended to.
        self._buffer = np.zeros(2 * self._context_steps * STEP, np.float32)
        self._base = 0  # 16 kHz position of the buffer's first sample
        self._fill = 0  # samples in the buffer

    @property
    def samples(self) -> int:
        """Samples taken so far, at the input's rate."""
        return self._samples

    @property
    def frames_total(self) -> int:
        """Frames that cover every sample so far: the last one may be part sound, part silence."""
        return -(-self._samples * self._fps // self._rate)

    def append(self, pcm: bytes) -> None:
        """Take little-endian mono PCM16 of any length; a split sample is put together again."""
        if self._finished:
            raise ValueError("the utterance is finished, it takes no more audio")
        data = self._odd + pcm if self._odd else pcm
        whole = len(data) // 2 * 2
        self._odd = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").astype(np.float64) / 32768.0
        self._samples += len(samples)
        self._store(self._resampler.push(samples))

    def finish(self) -> None:
        """End the sound: every remaining frame becomes ready; half a sample is dropped."""
        if not self._finished:
            self._finished = True
            self._store(self._resampler.finish())

    def take(self) -> Sequence[AudioWindow]:
        """Return the windows that became ready since the last call."""
        ready: list[AudioWindow] = []
        while (group := self._ready_group()) is not None:
            ready.extend(group)
        return ready

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
        steps = min(end, self._steps_total(end)) - start
        self._next_frame = last + 1
        shares = [self._mouth_share(i) for i in range(first, last + 1)]
        return [
            AudioWindow(
                i,
                number,
                context,
                self._first_step(i) - start,
                steps,
                silent=not share,
                mouth=share,
            )
            for i, share in enumerate(shares, first)
        ]

    def _first_step(self, frame: int) -> int:
        return frame * STEPS_PER_S // self._fps - STEPS_BEFORE

    def _end_step(self, frame: int) -> int:
        """Return the step after the last one that a frame waits for."""
        return self._first_step(frame) + STEPS_PER_FRAME + self._extra_steps

    def _steps_total(self, at_least: int) -> int:
        """Return the real steps: unknown before the end, then the tail padded to its frame."""
        if not self._finished:
            return at_least
        return self.frames_total * STEPS_PER_S // self._fps

    def _mouth_share(self, frame: int) -> float:
        """Return how much of the drawn mouth shows in the next frame; its window is there."""
        if self._mouth is None:
            return 1.0
        first = frame * STEPS_PER_S // self._fps
        for step in range(self._mouth.heard_steps, first + energy.AHEAD_STEPS):
            begin = step * STEP - self._base
            self._mouth.hear(self._buffer[begin : min(begin + STEP, self._fill)])
        own_steps = (frame + 1) * STEPS_PER_S // self._fps - first
        return min(self._mouth.share(first, own_steps), self._end_share(frame, first))

    def _end_share(self, frame: int, first_step: int) -> float:
        """Return what the end of the sound leaves: the last picture is the avatar's own.

        Only frames that need sound past the end are touched: all others may have left before
        anybody knew that the sound ends.
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
            self._renew(len(samples))
        self._buffer[self._fill : self._fill + len(samples)] = samples
        self._fill += len(samples)

    def _renew(self, more: int) -> None:
        """Move to a new array without what no window needs: old views keep the old one."""
        _, last = group_of(self._next_frame)
        start = max(0, self._end_step(last) - self._context_steps) * STEP
        keep = self._buffer[start - self._base : self._fill]
        self._buffer = np.zeros(2 * self._context_steps * STEP + len(keep) + more, np.float32)
        self._buffer[: len(keep)] = keep
        self._base, self._fill = start, len(keep)


def group_of(frame: int) -> tuple[int, int]:
    """Return the number of the frame's group and the last frame of that group."""
    if frame < _GROWING[-1]:
        number = sum(frame >= first for first in _GROWING) - 1
        return number, _GROWING[number + 1] - 1
    later = (frame - _GROWING[-1]) // GROUP_FRAMES
    return len(_GROWING) - 1 + later, _GROWING[-1] + (later + 1) * GROUP_FRAMES - 1
