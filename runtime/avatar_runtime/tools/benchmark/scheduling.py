"""Decisions per second of the scheduler, without a device."""

from __future__ import annotations

import time
from typing import Final

from avatar_runtime.batching.frames import AudioWindow, FrameRequest
from avatar_runtime.batching.scheduler import Scheduler
from avatar_runtime.tools.benchmark.plan import FPS

_DECISIONS: Final = 100_000


def decisions_per_s() -> int:
    """Return the frames per second that the scheduler batches for 16 saturating sessions."""
    window = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
    requests = [
        [
            FrameRequest(f"{s}", 1, 1, i + 1, i / FPS, "anna", i, window, 80, 64, 64)
            for i in range(50)
        ]
        for s in range(16)
    ]
    queue, asked, placed = Scheduler(pads=True), [8] * len(requests), 0
    for own in requests:
        for request in own[:8]:
            queue.offer(request, 0.0)
    began = time.perf_counter()
    while placed < _DECISIONS:
        for entry in queue.take(16, 0.0):
            session = int(entry.request.session)
            queue.offer(requests[session][asked[session] % 50], 0.0)
            asked[session] += 1
            placed += 1
        queue.shed(16, 0.0)
    return round(placed / (time.perf_counter() - began))
