"""The admin port of a pod: its address, its tokens, and how soon it is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from avatar_contracts import labels

RETRY_S: Final = (0.1, 30.0)  # first and longest delay before a stream is opened again
STARTING_S: Final = 1.0  # first delay for a pod that is not ready: its port may not be open yet


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The admin port of a pod."""

    pod: str
    """Name of the pod, for logs."""

    address: str
    """HOST:PORT."""

    token: str
    """Bearer token."""

    ready: bool = False
    """Whether the pod is Ready; when it becomes so, a broken stream is opened immediately."""

    other_tokens: tuple[str, ...] = ()
    """Tokens of other keys, which are tried in turn if the pod refuses the first one."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return all tokens in the order in which they are tried."""
        return (self.token, *self.other_tokens)

    @property
    def first_delay_s(self) -> float:
        """Return the delay after the first failure."""
        return RETRY_S[0] if self.ready else STARTING_S


def headers(token: str) -> dict[str, str]:
    """Return the headers of a request to a pod."""
    return {"Authorization": f"Bearer {token}"}


def admin_address(ip: str) -> str:
    """Return HOST:PORT of a pod's admin port."""
    return f"[{ip}]:{labels.ADMIN_PORT}" if ":" in ip else f"{ip}:{labels.ADMIN_PORT}"
