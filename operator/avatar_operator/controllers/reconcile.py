"""The inputs of one reconcile of a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.controllers.service_state import ServiceState
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.status import refusals


@dataclass(frozen=True, slots=True)
class Reconcile:
    """The inputs of one reconcile."""

    uid: str
    service: Service
    state: ServiceState
    version: int
    """The version of the service that has this spec and this status."""
    last_status: Mapping[str, object]
    now: float

    @property
    def refusal(self) -> refusals.Refusal | None:
        """The last refusal of pods of this generation."""
        found = self.state.refusal
        is_current = found is not None and found.generation == self.service.generation
        return found if is_current else None

    def retry_s(self, loop_now: float) -> float:
        """Return for how long no pod is created, because the API server refused the last one."""
        refusal = self.refusal
        return 0.0 if refusal is None else refusal.retry_at - loop_now
