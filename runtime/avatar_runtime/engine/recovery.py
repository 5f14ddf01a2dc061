"""Renders batches on a device that can run out of memory: in smaller parts, then with retries."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_runtime import errors
from avatar_runtime.engine.device import STAGES, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from avatar_runtime.batching.frames import Frame, FrameRequest
    from avatar_runtime.engine.device import Device, InFlight

# Delays while another process holds the memory. They are short, since a session shows no new
# frame meanwhile, and sum up to 10 s, before liveness takes the engine for hung.
_RETRY_DELAYS_S: Final = (0.05, *[0.1] * 100)

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


class RecoveringDevice:
    """A device whose batches survive a lack of memory. Only the engine's thread calls it."""

    def __init__(self, device: Device, sleep: Callable[[float], None]) -> None:
        """`sleep` is called with seconds while the device has no memory for a single frame."""
        self._device = device
        self._sleep = sleep
        # Replaced as a whole, since the event loop reads both values.
        self._out_of_memory = (0, 0)

    @property
    def out_of_memory(self) -> tuple[int, int]:
        """How often the device ran out of memory, and the frames of the last such batch.

        Any thread may read it.
        """
        return self._out_of_memory

    def count_out_of_memory(self, frames: int) -> None:
        """Count one more time that the device ran out of memory, for a batch of `frames`."""
        self._out_of_memory = (self._out_of_memory[0] + 1, frames)

    def launch(self, batch: Sequence[FrameRequest]) -> InFlight | None:
        """Return a batch after its forward pass, or `None` if the device ran out of memory.

        Raises:
            EngineError: the batch failed for another reason.
        """

        def launched() -> InFlight:
            in_flight = self._device.launch(batch)
            in_flight.wait_forward()
            return in_flight

        return none_if_out_of_memory(launched, len(batch))

    def retry(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Render a batch that ran out of memory while others were in flight, in halves.

        Raises:
            EngineError: the batch failed.
        """
        self.count_out_of_memory(len(batch))
        self._device.release()
        return self._render_parts(batch, max(1, len(batch) // 2))

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Render a batch as a whole, or in smaller parts if the device runs out of memory.

        Raises:
            EngineError: the batch failed.
        """
        return self._render_parts(batch, len(batch))

    def with_retries(self, work: Callable[[], Result], frames: int) -> Result:
        """Return the result of work that has no smaller part, retried while memory is short.

        `frames` is the size of its batch, or 0 if it renders none.

        Raises:
            DeviceMemoryError: there was no memory for about 10 s.
        """
        for attempt, delay_s in enumerate(_RETRY_DELAYS_S):
            try:
                return work()
            except errors.DeviceMemoryError as error:
                if attempt == 0:
                    _log.warning("device out of memory, retrying: %s", error)
                self.count_out_of_memory(frames)
            self._device.release()
            self._sleep(delay_s)
        return work()

    def _render_parts(self, batch: Sequence[FrameRequest], size: int) -> Rendered:
        """Render a batch in parts of `size`, and in smaller ones where these do not fit."""
        frames: list[Frame] = []
        stages = dict.fromkeys(STAGES, 0.0)
        while len(frames) < len(batch):
            part = batch[len(frames) : len(frames) + size]
            rendered = self._render_part(part)
            if rendered is None:
                # Not in the exception handler: the exception keeps the tensors of the batch alive.
                self._device.release()
                size = len(part) // 2
                continue
            frames += rendered.frames
            stages = {name: stages[name] + rendered.stages[name] for name in STAGES}
        return Rendered(frames, stages)

    def _render_part(self, part: Sequence[FrameRequest]) -> Rendered | None:
        """Render a part of a batch, or return `None` if the part must be smaller."""
        if len(part) == 1:
            with _as_engine_error(1):
                return self.with_retries(lambda: self._device.render(part), 1)
        rendered = none_if_out_of_memory(lambda: self._device.render(part), len(part))
        if rendered is None:
            self.count_out_of_memory(len(part))
        return rendered


def none_if_out_of_memory(work: Callable[[], Result], frames: int) -> Result | None:
    """Return the result of work on a batch, or `None` if the device ran out of memory.

    Raises:
        EngineError: the work failed for another reason.
    """
    with _as_engine_error(frames):
        try:
            return work()
        except errors.DeviceMemoryError:
            return None


@contextmanager
def _as_engine_error(frames: int) -> Iterator[None]:
    """Raise any failure of a batch as an `EngineError`."""
    try:
        yield
    except errors.EngineError:
        raise
    except Exception as error:
        _log.exception("batch failed frames=%d", frames)
        raise errors.EngineError(f"a batch of {frames} failed") from error
