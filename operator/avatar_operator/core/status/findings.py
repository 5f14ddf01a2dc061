"""The value that every rule about conditions returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_operator.names import Condition, Reason


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times, which depend on the previous status."""

    condition: Condition
    status: bool | None
    """None: unknown."""
    reason: Reason
    message: str

    @property
    def status_text(self) -> str:
        """The status as the API writes it."""
        return "Unknown" if self.status is None else str(self.status)
