"""Whether the engine makes progress, for the liveness probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.batching.frames import FrameRequest

HUNG_S: Final = 30.0  # far over any batch of any class; liveness takes another minute
FAILING_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that the engine runs together."""

    requests: Sequence[FrameRequest]
    limit: int
    """Number of frames that the batch could have had."""
    started_at: float
    """When it was taken from the queue, monotonic seconds."""


class EngineHealth:
    """Records the start and end of batches, and derives what is wrong."""

    def __init__(self) -> None:
        self._running: list[Batch] = []  # oldest first; they end in this order
        self._failing_since: float | None = None
        self._stopped_by: str | None = None

    def started(self, batch: Batch) -> None:
        """Record that the engine has received a batch."""
        self._running.append(batch)

    def ended(self, batch: Batch) -> None:
        """Record that the engine has returned a batch, with or without an error."""
        self._running.remove(batch)

    def succeeded(self) -> None:
        """Record that frames were generated."""
        self._failing_since = None

    def failed(self, now: float) -> None:
        """Record that frames could not be generated."""
        if self._failing_since is None:
            self._failing_since = now

    def stopped(self, error: BaseException) -> None:
        """Record that an unexpected error has stopped the batcher. It does not recover."""
        self._stopped_by = type(error).__name__

    def problem(self, now: float) -> str | None:
        """Return what is wrong with the engine, or `None`."""
        if self._stopped_by is not None:
            return f"the batcher stopped: {self._stopped_by}"
        if self._running and now - self._running[0].started_at > HUNG_S:
            return f"a batch has been running for {now - self._running[0].started_at:.0f} s"
        if self._failing_since is not None and now - self._failing_since > FAILING_S:
            return f"every batch has failed for {now - self._failing_since:.0f} s"
        return None
