"""Times the stages of a batch, with the clock of the host or with events in the GPU's queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import torch

from avatar_runtime.engine.device import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping


class StageTimer(Protocol):
    """Times stages on the device, which begin where the previous one ended, and on the host."""

    def end_stage(self, stage: str) -> None:
        """End a stage on the device now."""
        ...

    def add(self, stage: str, seconds: float) -> None:
        """Add work that the host did beside the device."""
        ...

    def stages(self) -> Mapping[str, float]:
        """Return the seconds of every stage, 0 for one that did not run."""
        ...


def start(device: torch.device) -> StageTimer:
    """Return a started timer for a device."""
    return _DeviceTimer() if device.type == "cuda" else _HostTimer()


class _HostTimer:
    def __init__(self) -> None:
        self._at = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def end_stage(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._at
        self._at = now

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] += seconds

    def stages(self) -> Mapping[str, float]:
        return dict(self._seconds)


class _DeviceTimer:
    """The host runs ahead of the GPU, so only events in its queue show when a stage ended."""

    def __init__(self) -> None:
        self._events = [("", _timing_event())]
        self._host = dict.fromkeys(STAGES, 0.0)

    def end_stage(self, stage: str) -> None:
        self._events.append((stage, _timing_event()))

    def add(self, stage: str, seconds: float) -> None:
        self._host[stage] += seconds

    def stages(self) -> Mapping[str, float]:
        self._events[-1][1].synchronize()
        seconds = dict(self._host)
        for (_, begin), (stage, end) in zip(self._events, self._events[1:], strict=False):
            seconds[stage] += begin.elapsed_time(end) / 1000
        return seconds


def _timing_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
