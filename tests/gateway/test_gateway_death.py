"""Sessions outlive the gateway that carries them: they go on through another replica."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client import dialing, session
from avatar_client.sound import Sound
from localcluster import runtime_process, waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

KEY = "a-key-of-some-length"
SESSIONS = 20
SOUND = Sound(Random(1).randbytes(24_000 * 2 * 4), 24_000)  # four seconds
RESUMED_S = 2.0


class Caller:
    """A session that speaks, and that finds the second gateway when it loses the first one."""

    def __init__(self, first: str, second: str) -> None:
        self.live: session.Session | None = None
        self._first = session.Target(first, "acme/concierge", KEY)
        self._second = session.Target(second, "acme/concierge", KEY)
        self.is_ready = asyncio.Event()

    async def run(self, spoken: asyncio.Event) -> None:
        async with session.connect(self._first) as live:
            self.live = live
            live._socket._dial = partial(dialing.dial, self._second)
            self.is_ready.set()
            await spoken.wait()
            response = await live.speak(SOUND)
            assert response.status == "completed"
            assert bytes(response.pcm) == SOUND.pcm
            assert len(response.frames) + len(response.dropped) == 100
            assert live.trace.violations == []


async def test_the_sessions_of_a_killed_gateway_go_on_through_another_one(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any]
) -> None:
    named = {"AVATAR_POD": "p1", "AVATAR_SERVICE": "acme/concierge", "AVATAR_CAPACITY": "20"}
    served = runtime_process.serving(tmp_path / "log", 16, named, device="simulated:h100-80gb")
    with served as runtime:
        ports = [int(url.rpartition(":")[2]) for url in (runtime.url, runtime.admin)]
        fake.items["pods"] = [
            fake.pod(
                "p1",
                ports=[
                    {"name": name, "containerPort": port}
                    for name, port in zip(("sessions", "admin"), ports, strict=True)
                ],
                podIP="127.0.0.1",
            )
        ]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        async with start_gateway() as first, start_gateway() as second:
            for gateway in (first, second):
                await waiting.until(
                    partial(gateway.status, "/readyz"), lambda status: status == 200, "ready", 10
                )
            urls = [f"ws://127.0.0.1:{gateway.ports[0]}" for gateway in (first, second)]
            callers = [Caller(*urls) for _ in range(SESSIONS)]
            spoken = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for caller in callers:
                    group.create_task(caller.run(spoken))
                for caller in callers:
                    await caller.is_ready.wait()
                assert runtime.state()["sessions"] == SESSIONS
                spoken.set()
                await asyncio.sleep(1)  # in the middle of a word
                first.child.kill()
                await waiting.until(
                    lambda: asyncio.sleep(0, [c.live.resumed for c in callers if c.live]),
                    lambda counts: min(counts) == 1,
                    "every session has gone on",
                    RESUMED_S,
                )
                assert runtime.state()["sessions"] == SESSIONS
            assert [caller.live.resumed for caller in callers if caller.live] == [1] * SESSIONS
