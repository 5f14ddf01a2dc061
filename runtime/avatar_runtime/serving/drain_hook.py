"""Drains the runtime of this pod; the preStop hook of the pod runs it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Final
from urllib.request import Request, urlopen

from avatar_contracts import labels
from avatar_runtime.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REQUEST_TIMEOUT_S: Final = 5.0
_PERIOD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Control:
    """The admin listener of one runtime."""

    url: str
    """`http://HOST:PORT`."""
    token: str = field(repr=False)

    def drain(self) -> int:
        """Refuse new sessions from now on, and return the number of sessions left.

        Raises:
            DeliveryError: the runtime does not answer.
        """
        return self._sessions(labels.DRAIN_PATH, b'{"draining": true}')

    def sessions(self) -> int:
        """Return the number of sessions left.

        Raises:
            DeliveryError: the runtime does not answer.
        """
        return self._sessions(labels.STATE_PATH, None)

    def _sessions(self, path: str, body: bytes | None) -> int:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = Request(self.url + path, body, headers)
        try:
            with urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                state: Mapping[str, object] = json.load(response)
        except (OSError, HTTPException, ValueError) as error:
            raise DeliveryError(self.url + path, str(error)) from error
        sessions = state.get("sessions")
        if not isinstance(sessions, int):
            raise DeliveryError(self.url + path, "the response has no number of sessions")
        return sessions


def run(
    control: Control,
    wait_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Drain, wait at most `wait_s` seconds for the last session, and return the number left.

    Raises:
        DeliveryError: the runtime does not answer.
    """
    until = clock() + wait_s
    left = control.drain()
    while left and clock() < until:
        sleep(min(_PERIOD_S, max(0.0, until - clock())))
        left = control.sessions()
    return left
