"""Times the stages of a batch, by the host's clock or by events in the GPU's own queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import torch

from avatar_runtime.engine.device import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping


class Watch(Protocol):
    """Stages on the device follow one another: each begins where the one before ended."""

    def lap(self, stage: str) -> None:
        """End a stage here."""
        ...

    def add(self, stage: str, seconds: float) -> None:
        """Count work that the host has done beside the device."""
        ...

    def stages(self) -> Mapping[str, float]:
        """Return the seconds of every stage; 0 for one that had none."""
        ...


def started(device: torch.device) -> Watch:
    """Return the watch that is right for a device."""
    return _DeviceWatch() if device.type == "cuda" else _HostWatch()


class _HostWatch:
    def __init__(self) -> None:
        self._at = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._at
        self._at = now

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] += seconds

    def stages(self) -> Mapping[str, float]:
        return dict(self._seconds)


class _DeviceWatch:
    """The host runs ahead of the GPU: only events in its queue say when a stage ended."""

    def __init__(self) -> None:
        self._marks = [("", _mark())]
        self._host = dict.fromkeys(STAGES, 0.0)

    def lap(self, stage: str) -> None:
        self._marks.append((stage, _mark()))

    def add(self, stage: str, seconds: float) -> None:
        self._host[stage] += seconds

    def stages(self) -> Mapping[str, float]:
        self._marks[-1][1].synchronize()
        seconds = dict(self._host)
        for (_, begin), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] += begin.elapsed_time(end) / 1000
        return seconds


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
