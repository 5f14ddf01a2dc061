"""Sessions outlive the gateway that carries them: they go on through another replica."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.gateway.spoken import KEY, SOUND, check

from avatar_client import dialing, session
from localcluster import runtime_process, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

CAPACITY = 31
RESUMED_S = 2.0
EXIT_S = 20.0


class Caller:
    """A session that finds the second gateway when it loses the first one."""

    def __init__(self, first: str, second: str, number: int) -> None:
        self.live: session.Session | None = None
        self.is_ready = asyncio.Event()
        self._first = session.Target(first, "acme/concierge", KEY)
        self._second = session.Target(second, "acme/concierge", KEY)
        self._is_idle = number % 3 == 0  # speaks only when it goes on
        self._arrives_live = number % 3 == 1  # otherwise all of its sound is there at once

    async def run(self, spoken: asyncio.Event, gone_on: asyncio.Event) -> None:
        async with session.connect(self._first) as live:
            self.live = live
            live._socket._dial = partial(dialing.dial, self._second)
            self.is_ready.set()
            await (gone_on if self._is_idle else spoken).wait()
            response = await live.speak(SOUND, realtime=self._arrives_live)
            check(live, response)
            assert live.resumed == 1


@pytest.fixture
async def gateways(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any]
) -> AsyncIterator[tuple[Any, Any, runtime_process.Runtime]]:
    """Two gateways and a pod."""
    named = {
        "AVATAR_POD": "p1",
        "AVATAR_SERVICE": "acme/concierge",
        "AVATAR_CAPACITY": str(CAPACITY),
    }
    served = runtime_process.serving(tmp_path / "log", 16, named, device="simulated:h100-80gb")
    with served as runtime:
        ports = [
            {"name": name, "containerPort": int(url.rpartition(":")[2])}
            for name, url in (("sessions", runtime.url), ("admin", runtime.admin))
        ]
        fake.items["pods"] = [fake.pod("p1", ports=ports, podIP="127.0.0.1")]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        async with start_gateway() as first, start_gateway() as second:
            for gateway in (first, second):
                await waiting.until(
                    partial(gateway.status, "/readyz"), lambda status: status == 200, "ready", 20
                )
            yield first, second, runtime


@pytest.mark.parametrize(("end", "sessions"), [("kill", 20), ("terminate", 30)])
async def test_the_sessions_of_a_gateway_that_ends_go_on_through_another_one(
    gateways: tuple[Any, Any, runtime_process.Runtime], end: str, sessions: int
) -> None:
    first, second, runtime = gateways
    a, b = (f"ws://127.0.0.1:{gateway.ports[0]}" for gateway in (first, second))
    callers = [Caller(a, b, number) for number in range(sessions)]
    spoken, gone_on = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.run(spoken, gone_on))
        for caller in callers:
            await caller.is_ready.wait()
        assert runtime.state()["sessions"] == sessions
        spoken.set()
        await asyncio.sleep(1)  # in the middle of a word
        getattr(first.child, end)()
        await waiting.until(
            lambda: asyncio.sleep(0, [c.live.resumed for c in callers if c.live]),
            lambda counts: min(counts) == 1,
            "every session has gone on",
            RESUMED_S if end == "kill" else EXIT_S,
        )
        if end == "terminate":  # it waits for nobody
            async with asyncio.timeout(EXIT_S):
                assert await first.child.wait() == 0
        assert runtime.state()["sessions"] == sessions
        gone_on.set()


async def test_a_session_that_cannot_resume_stays_until_it_ends(
    gateways: tuple[Any, Any, runtime_process.Runtime],
) -> None:
    first, _, runtime = gateways
    target = session.Target(f"ws://127.0.0.1:{first.ports[0]}", "acme/concierge", KEY)
    async with session.connect(target, resumes=False) as live:
        first.child.terminate()
        response = await live.speak(SOUND)
        assert (response.status, bytes(response.pcm)) == ("completed", SOUND.pcm)
        assert runtime.state()["sessions"] == 1
    async with asyncio.timeout(EXIT_S):
        assert await first.child.wait() == 0
