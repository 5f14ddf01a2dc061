"""Callers whose sessions speak once, stay open until `leave`, and speak once more.

They stay for as long as a test on a busy machine takes. They are silent in between, because frames
that are late for lack of CPU time would count as deadline misses of their pod.
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
        """Let every caller speak once more and end its session.

        Raises:
            Exception: a caller failed before, for example because it was rejected.
        """
        self._leaving = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Cancel the callers that are still connected."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stay(self) -> None:
        # A connection that is lost counts as a session that was cut.
        async with session.connect(self._target, keep_media=False, resumes=False) as live:
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
    """Connect `count` sessions at once; they end with the block, unless they left before.

    `at` is the HOST:PORT of a pod; the callers then bypass the gateway. With `talks`, they speak
    all the time, otherwise they are silent between their first and their last response.
    """
    release = space.release
    url = f"ws://{at or release.gateway}"
    token = await space.session_token(service) if at else ""
    model = f"{space.name}/{service}"
    target = session.Target(url, model, release.key, wait_ms=wait_ms, session_token=token)
    callers = Callers(target, count, talks)
    try:
        yield callers
    finally:
        await callers.close()
