"""What a program does with SIGTERM while it starts."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

STATUS: Final = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """End the process with status 143 on SIGTERM until the program has a handler of its own.

    The first process of a container ignores a signal that it has no handler for. Without this, a
    pod that is deleted while its program imports its modules stays until its grace period ends.
    """
    signal.signal(signal.SIGTERM, _exit)


def _exit(_: int, __: FrameType | None) -> NoReturn:
    sys.exit(STATUS)
