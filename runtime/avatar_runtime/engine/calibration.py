"""Warms a device up and fits its line of memory and time, as a GPU profile states it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.batching.windows import AudioWindow
from avatar_runtime.engine.device import MIB, Calibration, Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.avatars.cache import AvatarInfo

_ROUNDS: Final = 3
_BUDGET_S: Final = 0.6  # of one bucket: a slow CPU measures once and starts


@dataclass(frozen=True, slots=True)
class Measured:
    """What warming up has shown."""

    curve: Calibration
    refused_batch: int | None
    """The bucket that did not fit; `None`: all did."""


def measure(device: Device, variant: str, avatar: AvatarInfo, batch_size: int) -> Measured:
    """Run every bucket and return the curve; memory is read after all of them are warm.

    Raises:
        DeviceMemoryError: not even one frame fits.
    """
    times: list[tuple[int, float]] = []
    used: list[tuple[int, float]] = []
    refused: int | None = None
    for size in device.buckets(batch_size):
        try:
            times.append((size, 1000 * _best(device, avatar, size)))
        except errors.DeviceMemoryError:
            if not times:
                raise
            device.release()
            refused = size
            break  # larger ones do not fit either
        used.append((size, device.memory().used_bytes / MIB))
    base, per_frame = _line(used)
    return Measured(Calibration(variant, round(base), round(per_frame), tuple(times)), refused)


def _best(device: Device, avatar: AvatarInfo, size: int) -> float:
    """Return the fastest of a few runs after a warm one: what disturbs only makes it slower."""
    durations: list[float] = []
    for turn in range(1 + _ROUNDS):
        # Another response each time: its sound is encoded anew, as in a session.
        batch = [_request(avatar, size, turn, i) for i in range(size)]
        began = time.perf_counter()
        device.render(batch)
        durations.append(time.perf_counter() - began)
        if turn and sum(durations[1:]) > _BUDGET_S:
            break
    return min(durations[1:])


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line; a slope below 0 is noise."""
    sizes, values = np.array(points, float).T
    spread = float(((sizes - sizes.mean()) ** 2).sum())
    if spread == 0:
        return float(values.mean()), 0.0
    slope = max(0.0, float(((sizes - sizes.mean()) * (values - values.mean())).sum() / spread))
    return float(values.mean() - slope * sizes.mean()), slope


def _request(avatar: AvatarInfo, size: int, turn: int, index: int) -> FrameRequest:
    """Return a frame of silence; groups of four share their sound, as in a session."""
    samples = np.zeros(16_000, np.float32).data.toreadonly()
    window = AudioWindow(index, index // 4, samples, 2 * (index % 4) + 34, 50, silent=False)
    return FrameRequest(
        session=f"calibration-{size}",
        response_ref=turn,
        epoch=0,
        frame_index=index,
        deadline=0.0,
        avatar=avatar.name,
        source_frame=index,
        window=window,
        quality=80,
        width=avatar.width,
        height=avatar.height,
    )
