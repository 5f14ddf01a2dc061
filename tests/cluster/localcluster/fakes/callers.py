"""Sessions that say a word, stay until they are told to go, and say another one.

However long a busy machine takes, they are there; and they are silent meanwhile, since frames that
are late for want of processors would count against their pod.
"""

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
PAUSE_S: Final = 0.2
SPEECH: Final = paths.REPOSITORY / "examples" / "speech.wav"


class Callers:
    """Some sessions of one service."""

    def __init__(self, target: session.Target, count: int, talks: bool) -> None:
        self._target = target
        self._talks = talks
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
            await self._speak(live)
            while not self._leaving:
                await live.pause(PAUSE_S)
                if self._talks:
                    await self._speak(live)
            await self._speak(live)

    async def _speak(self, live: session.Session) -> None:
        response = await live.speak(self._words)
        assert response.status == "completed", response.status


@contextlib.asynccontextmanager
async def calling(
    space: Space,
    service: str,
    count: int,
    *,
    wait_ms: int | None = None,
    at: str = "",
    talks: bool = False,
) -> AsyncIterator[Callers]:
    """Connect so many sessions at once; they end with the block, if they did not leave before.

    `at` is HOST:PORT of a pod to connect to, past the gateway and its count of arrivals; with
    `talks` they go on talking, else they are silent between their first and their last word.
    """
    release = space.release
    url = f"ws://{at or release.gateway}"
    target = session.Target(url, f"{space.name}/{service}", release.key, wait_ms=wait_ms)
    callers = Callers(target, count, talks)
    try:
        yield callers
    finally:
        await callers.close()
