"""The value that every rule about conditions returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator.names import Condition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.names import Reason

PROBLEMS: Final[Mapping[Condition, bool]] = {
    Condition.STALLED: True,
    Condition.DEGRADED: True,
    Condition.GPU_AVAILABLE: False,
    Condition.STATE_FRESH: False,
    Condition.AVATARS_READY: False,
    Condition.UPSTREAM_ALLOWED: False,
}
"""Conditions of a service that say that something is wrong, with the status that says so.

`Ready` and `Draining` are not here: a service that starts or scales down is not a problem.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times, which depend on the previous status."""

    condition: Condition
    status: bool | None
    """None: unknown."""
    reason: Reason
    message: str

    @property
    def is_problem(self) -> bool:
        """Whether this is the bad status of a condition that reports problems (`PROBLEMS`)."""
        return self.status is not None and PROBLEMS.get(self.condition) is self.status

    @property
    def status_text(self) -> str:
        """The status as the API writes it."""
        return "Unknown" if self.status is None else str(self.status)
