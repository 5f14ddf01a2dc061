"""Warms up a device and measures its curve of memory and time, in the form of GPU profiles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.batching import buckets
from avatar_runtime.batching.frames import GROUP_FRAMES, AudioWindow, FrameRequest
from avatar_runtime.engine.device import MIB, Curve, Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import AvatarInfo

LOAD_RATIO: Final = 0.9
"""Share of the frames of a device that sessions may use, as the operator plans its pods."""
_ROUNDS: Final = 3
_MAX_S: Final = 0.6  # of one bucket: a slow CPU measures once more and starts


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of the warm-up."""

    curve: Curve
    oom_batch: int | None
    """The bucket that did not fit into memory; `None` if all fit."""


def sessions_carried(curve: Curve, batch_size: int, fps: int) -> int:
    """Return how many sessions that speak all the time a device carries; 0 if not even one."""
    largest = min(batch_size, curve.frame_batch_ms[-1][0])
    sizes = [size for size in buckets.BUCKETS if size <= largest]
    frames_per_s = max(1000 * size / curve.batch_ms(size) for size in sizes)
    return int(LOAD_RATIO * frames_per_s / fps)


def measure(device: Device, variant: str, avatar: AvatarInfo, batch_size: int) -> Measured:
    """Run every bucket and return the curve.

    The first pass runs the buckets in ascending order: it initialises every library and measures
    memory. The second pass runs them in descending order, so that the CUDA graphs of the small
    buckets fit into the memory of the largest. The third pass, ascending, measures time.

    Raises:
        DeviceMemoryError: one frame does not fit.
    """
    used, oom_batch = _probe(device, avatar, batch_size)
    sizes = [size for size, _ in used]
    seconds = {size: [_run(device, avatar, size, 1)] for size in reversed(sizes)}
    for size in sizes:
        while len(seconds[size]) < 2 or (
            len(seconds[size]) < _ROUNDS and sum(seconds[size]) < _MAX_S
        ):
            seconds[size].append(_run(device, avatar, size, 1 + len(seconds[size])))
    base, per_frame = _fit_line(used)
    # The minimum: other load and the capture of graphs only make a batch slower.
    times = tuple((size, 1000 * min(seconds[size])) for size in sizes)
    return Measured(Curve(variant, round(base), round(per_frame), times), oom_batch)


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
            return used, size  # larger buckets do not fit either
        used.append((size, device.memory().used_bytes / MIB))
    return used, None


def _run(device: Device, avatar: AvatarInfo, size: int, response: int) -> float:
    """Return the seconds of one batch."""
    # A new response each time, so that its audio is encoded again, as in a session.
    silence = np.zeros(16_000, np.float32)
    batch = requests(avatar, size, f"calibration-{size}", response, silence)
    began = time.perf_counter()
    device.render(batch)
    return time.perf_counter() - began


def _fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line; a negative slope counts as 0."""
    sizes, values = np.array(points, float).T
    run = float(((sizes - sizes.mean()) ** 2).sum())
    if run == 0:
        return float(values.mean()), 0.0
    slope = max(0.0, float(((sizes - sizes.mean()) * (values - values.mean())).sum() / run))
    return float(values.mean() - slope * sizes.mean()), slope


def requests(
    avatar: AvatarInfo, size: int, session: str, response: int, samples: NDArray[np.float32]
) -> list[FrameRequest]:
    """Return a batch in which as many frames share an encode as in a session.

    `samples` is at least one second at 16 kHz. Audio is encoded once for each session, response
    and group.
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
