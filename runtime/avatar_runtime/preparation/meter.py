"""Adds up the processor time and the wall time of each stage of a preparation."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STAGES: Final = ("decode", "detect", "store", "read", "mask", "latents", "idle", "alpha")
"""Stages by their order; `latents` and `idle` run the model, the others only the processor.
`alpha` is for sources with transparent pixels only."""
MODEL_STAGES: Final = ("latents", "idle")


@dataclass(slots=True)
class Timed:
    """The block that is timed; it may correct its number of frames."""

    frames: int


class Meter:
    """Times of all threads of this process."""

    def __init__(self) -> None:
        self._wall_s: dict[str, float] = {}
        self._cpu_s: dict[str, float] = {}
        self._frames: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, frames: int) -> Iterator[Timed]:
        """Add the time of a block that handles `frames` frames."""
        timed = Timed(frames)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield timed
        finally:
            self._wall_s[name] = self._wall_s.get(name, 0.0) + time.perf_counter() - wall
            self._cpu_s[name] = self._cpu_s.get(name, 0.0) + time.process_time() - cpu
            self._frames[name] = self._frames.get(name, 0) + timed.frames

    def per_frame_ms(self) -> Mapping[str, Mapping[str, float]]:
        """Return the wall and processor milliseconds a frame of each stage that ran."""
        return {
            name: {
                "wall": round(1000 * self._wall_s[name] / self._frames[name], 2),
                "cpu": round(1000 * self._cpu_s[name] / self._frames[name], 2),
            }
            for name in STAGES
            if self._frames.get(name)
        }


def without_model_ms(timings: Mapping[str, Mapping[str, float]]) -> float:
    """Return the processor milliseconds a frame of the stages that do not run the model."""
    return round(sum(t["cpu"] for name, t in timings.items() if name not in MODEL_STAGES), 2)
