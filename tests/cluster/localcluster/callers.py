"""Sessions that talk and pause until they are told to go, however long the machine takes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from avatar_client import session, sound
from localcluster import paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.release import Space

WORDS_S: Final = 0.4
PAUSE_S: Final = 1.0
SPEECH: Final = paths.REPOSITORY / "examples" / "speech.wav"


class Callers:
    """Some sessions of one service."""

    def __init__(self, target: session.Target, count: int) -> None:
        self._target = target
        self._words = sound.read(SPEECH).cut(WORDS_S)
        self._leaving = False
        self._tasks = [
            asyncio.create_task(self._stay(), name=f"caller {number}") for number in range(count)
        ]

    async def leave(self) -> None:
        """Let each say its last words and go.

        Raises what any of them met before: a refusal, or the end of its session.
        """
        self._leaving = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Take away those who are still there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stay(self) -> None:
        async with session.connect(self._target, keep_media=False) as live:
            while True:
                response = await live.speak(self._words)
                assert response.status == "completed", response.status
                if self._leaving:
                    return
                await live.pause(PAUSE_S)


@contextlib.asynccontextmanager
async def calling(
    space: Space, service: str, count: int, wait_ms: int | None = None
) -> AsyncIterator[Callers]:
    """Connect so many sessions at once; they end with the block, if they did not leave before."""
    release = space.release
    model = f"{space.name}/{service}"
    target = session.Target(f"ws://{release.gateway}", model, release.key, wait_ms=wait_ms)
    callers = Callers(target, count)
    try:
        yield callers
    finally:
        await callers.close()
