"""The event loop of the gateway: uvloop where it is installed, otherwise that of asyncio.

A message that is forwarded takes about a tenth less processor time with uvloop
(docs/decisions/0064-the-cost-of-a-message.md).
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Final

try:
    import uvloop
except ImportError:  # no wheel for this system; everything works without it
    uvloop = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


_YOUNG_OBJECTS: Final = 20_000


def factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop."""
    return asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop


def collect_less_often() -> None:
    """Let Python look for cycles of objects after more of them.

    A session makes some hundred objects, nearly all of which go without the collector. With its
    default thresholds it looks at each of them several times, and often at all objects of the
    process, which stops everything for tens of milliseconds.
    """
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=factory()) as runner:
        runner.run(main)
