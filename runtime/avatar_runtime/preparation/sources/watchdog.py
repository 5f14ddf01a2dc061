"""Ends the process if a decoder takes too long with one packet.

A decoder cannot be interrupted from Python: its errors and time limits are seen after it returns.
Only a process that prepares one avatar may be ended, so its command asks for it.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    OnLate = Callable[[Path, float], None]

_on_late: OnLate | None = None


def install(on_late: OnLate | None) -> None:
    """Call `on_late` with the path and the limit in seconds, in a thread; None: never."""
    global _on_late
    _on_late = on_late


@contextmanager
def watching(path: Path, seconds: float) -> Iterator[None]:
    """Watch a block that decodes one packet of the file at `path`."""
    if _on_late is None:
        yield
        return
    timer = threading.Timer(seconds, _on_late, (path, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # so that no thread is left of the block
