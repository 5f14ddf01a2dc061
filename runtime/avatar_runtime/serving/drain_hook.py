"""Asks the runtime of this pod to drain, as the pod's preStop hook does."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Final
from urllib.request import Request, urlopen

from avatar_runtime.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ASK_TIMEOUT_S: Final = 5.0
_PERIOD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Control:
    """The administration listener of one runtime."""

    url: str
    """`http://HOST:PORT`."""
    token: str = field(repr=False)

    def drain(self) -> int:
        """Refuse new sessions from now on; return how many are left."""
        return self._sessions("/control/v1/drain", b'{"draining": true}')

    def sessions(self) -> int:
        """Return how many sessions are left."""
        return self._sessions("/control/v1/state", None)

    def _sessions(self, path: str, body: bytes | None) -> int:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = Request(self.url + path, body, headers)
        try:
            with urlopen(request, timeout=_ASK_TIMEOUT_S) as answer:
                state: Mapping[str, object] = json.load(answer)
        except (OSError, HTTPException, ValueError) as error:
            raise DeliveryError(self.url + path, str(error)) from error
        sessions = state.get("sessions")
        if not isinstance(sessions, int):
            raise DeliveryError(self.url + path, "the answer has no number of sessions")
        return sessions


def run(
    control: Control,
    wait_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Drain, wait at most `wait_s` seconds for the last session, and return how many are left.

    Raises `DeliveryError` if the runtime does not answer.
    """
    until = clock() + wait_s
    left = control.drain()
    while left and clock() < until:
        sleep(min(_PERIOD_S, max(0.0, until - clock())))
        left = control.sessions()
    return left
