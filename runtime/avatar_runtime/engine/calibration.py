"""Warms a device up and fits its line of memory and time, as a GPU profile states it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.batching.frames import GROUP_FRAMES, AudioWindow, FrameRequest
from avatar_runtime.engine.device import MIB, Calibration, Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
    """Run every bucket and return the curve.

    Upwards once, which starts every library and shows what fits and what it takes; downwards
    once, since a device that records batches then finds room for the small ones in the memory
    of the largest; and upwards again for the times.

    Raises:
        DeviceMemoryError: not even one frame fits.
    """
    used, refused = _probe(device, avatar, batch_size)
    sizes = [size for size, _ in used]
    seconds = {size: [_run(device, avatar, size, 1)] for size in reversed(sizes)}
    for size in sizes:
        while len(seconds[size]) < 2 or (
            len(seconds[size]) < _ROUNDS and sum(seconds[size]) < _BUDGET_S
        ):
            seconds[size].append(_run(device, avatar, size, 1 + len(seconds[size])))
    base, per_frame = _line(used)
    # The fastest: what disturbs only makes it slower, and so does recording it.
    times = tuple((size, 1000 * min(seconds[size])) for size in sizes)
    return Measured(Calibration(variant, round(base), round(per_frame), times), refused)


def _probe(
    device: Device, avatar: AvatarInfo, batch_size: int
) -> tuple[list[tuple[int, float]], int | None]:
    """Return the MiB in use after each bucket that fits, and the first that does not."""
    used: list[tuple[int, float]] = []
    for size in device.buckets(batch_size):
        try:
            _run(device, avatar, size, 0)
        except errors.DeviceMemoryError:
            if not used:
                raise
            device.release()
            return used, size  # larger ones do not fit either
        used.append((size, device.memory().used_bytes / MIB))
    return used, None


def _run(device: Device, avatar: AvatarInfo, size: int, turn: int) -> float:
    """Return the seconds of one batch."""
    # Another response each time: its sound is encoded anew, as in a session.
    silence = np.zeros(16_000, np.float32)
    batch = requests(avatar, size, f"calibration-{size}", turn, silence)
    began = time.perf_counter()
    device.render(batch)
    return time.perf_counter() - began


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line; a slope below 0 is noise."""
    sizes, values = np.array(points, float).T
    spread = float(((sizes - sizes.mean()) ** 2).sum())
    if spread == 0:
        return float(values.mean()), 0.0
    slope = max(0.0, float(((sizes - sizes.mean()) * (values - values.mean())).sum() / spread))
    return float(values.mean() - slope * sizes.mean()), slope


def requests(
    avatar: AvatarInfo, size: int, session: str, response: int, samples: NDArray[np.float32]
) -> list[FrameRequest]:
    """Return a batch of which as many frames share their sound as in a session.

    `samples` is a second or more at 16 kHz. Sound is encoded once for a session and response.
    """
    context = samples.data.toreadonly()
    batch = []
    for index in range(size):
        group, place = divmod(index, GROUP_FRAMES)
        batch.append(
            FrameRequest(
                session=session,
                response_ref=response,
                epoch=0,
                frame_index=index,
                deadline=0.0,
                avatar=avatar.name,
                source_frame=index,
                window=AudioWindow(index, group, context, 2 * place + 34, 50, silent=False),
                quality=80,
                width=avatar.width,
                height=avatar.height,
            )
        )
    return batch
