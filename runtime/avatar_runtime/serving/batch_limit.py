"""The largest batch that is allowed now: by the device's memory and by request."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_runtime.batching import governor
from avatar_runtime.engine import device

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.metrics import Metrics
    from avatar_runtime.serving.engine_protocol import Engine

_log = logging.getLogger(__name__)


class BatchLimit:
    """Applies the governor to the memory of the engine's device."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        metrics: Metrics,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called after memory has changed the limit."""
        self.batch_size = batch_size
        """Frames in the largest batch, as the operator planned it."""
        self.requested: int | None = None
        """The limit that the admin listener requested; `None` for no limit."""
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._on_change = on_change
        self._governor = governor.Governor(batch_size)
        self._has_calibration = False
        self._recoveries = 0
        self._must_release = False

    @property
    def value(self) -> int:
        """Number of frames that the next batch may have."""
        return governor.combined(self._governor, self.requested)

    def update(self) -> None:
        """Follow the device's memory: call it after each batch, and regularly without batches."""
        self._apply_calibration()
        now, before = self._clock(), self._governor.limit
        statistics = self._engine.statistics()
        recoveries = statistics.oom_recoveries - self._recoveries
        self._recoveries = statistics.oom_recoveries
        self._metrics.count_oom_recoveries(recoveries)
        if recoveries and statistics.oom_frames:
            self._governor = self._governor.with_out_of_memory(statistics.oom_frames, now)
        memory = self._engine.memory()
        ratio = memory.used_bytes / max(1, memory.total_bytes)
        self._governor = self._governor.with_memory(ratio, now)
        if self._governor.limit != before:
            _log.info(
                "batch limit changed from=%d to=%d memory_ratio=%.3f refusals=%d",
                before, self._governor.limit, ratio, recoveries,
            )  # fmt: skip
            self._must_release = self._governor.limit < before
            self._on_change()

    async def release_memory(self) -> None:
        """Release the memory that the device keeps for larger batches, if the limit has fallen."""
        if self._must_release:
            self._must_release = False
            await self._engine.release()

    def _apply_calibration(self) -> None:
        """Set the thresholds by the memory of the full batch, once the engine has measured it."""
        curve = self._engine.curve
        if self._has_calibration or curve is None:
            return
        self._has_calibration = True
        planned = (curve.base_mib + curve.per_frame_mib * self.batch_size) * device.MIB
        ratio = planned / max(1, self._engine.memory().total_bytes)
        self._governor = replace(self._governor, thresholds=governor.thresholds(ratio))
