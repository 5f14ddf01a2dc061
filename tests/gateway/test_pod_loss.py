"""Sessions outlive a pod that ends without a warning: they go on on another one."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.gateway.spoken import KEY, SOUND, check
from tests.gateway.test_pod_drain import pod

from avatar_client import dialing, session
from avatar_client.options import Options, Video
from avatar_client.sound import Sound
from localcluster import runtime_process, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

SESSIONS = 10


async def speak(
    urls: Sequence[str], mode: Video, number: int, ready: asyncio.Semaphore, go: asyncio.Event
) -> session.Session:
    """Speak twice, and return the session.

    One third has all its sound at once, another one is a microphone, and the last one is silent
    when its pod is lost. The session resumes through the second gateway.
    """
    first, second = (session.Target(url, "acme/concierge", KEY, wait_ms=20_000) for url in urls)
    async with session.connect(first, Options(video=mode)) as live:
        live._socket._dial = partial(dialing.dial, second)
        greeting = await live.speak(Sound(SOUND.pcm[:48_000], 24_000))
        assert greeting.status == "completed"
        ready.release()
        await go.wait()
        if number % 3 == 2:
            await waiting.until(
                lambda: asyncio.sleep(0, live.resumed), lambda times: times > 0, "resumed", 20
            )
        response = await live.speak(SOUND, realtime=number % 3 == 1)
        check(live, response)
        return live


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_the_sessions_of_a_lost_pod_go_on_on_another_one(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any], how: signal.Signals
) -> None:
    """A pod that is stopped is like one on a node that vanishes: no connection is reset."""
    async with AsyncExitStack() as stack:
        runtimes = []
        for name in ("p1", "p2"):
            environment = {
                "AVATAR_POD": name,
                "AVATAR_SERVICE": "acme/concierge",
                "AVATAR_CAPACITY": "12",
            }
            log = tmp_path / f"{name}.log"
            served = runtime_process.serving(log, 16, environment, device="simulated:h100-80gb")
            runtimes.append(stack.enter_context(served))
        fake.items["pods"] = [pod(fake, *each) for each in zip(("p1", "p2"), runtimes, strict=True)]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        gateways = [await stack.enter_async_context(start_gateway()) for _ in range(2)]
        for gateway in gateways:
            status = partial(gateway.status, "/readyz")
            await waiting.until(status, lambda found: found == 200, "ready", 20)
        ready, go = asyncio.Semaphore(0), asyncio.Event()
        urls = [f"ws://127.0.0.1:{gateway.ports[0]}" for gateway in gateways]
        modes: list[Video] = ["jpeg", "h264"] * SESSIONS
        async with asyncio.TaskGroup() as group:
            callers = []
            for number in range(SESSIONS):  # the gateway fills one pod after the other
                speaking = speak(urls, modes[number], number, ready, go)
                callers.append(group.create_task(speaking))
                if number == 0:
                    await ready.acquire()
            for _ in callers[1:]:
                await ready.acquire()
            full = next(each for each in runtimes if each.state()["sessions"] == SESSIONS)
            go.set()
            await asyncio.sleep(1.5)  # in the middle of a word
            stack.callback(os.kill, full.pid, signal.SIGKILL)  # a stopped pod does not end
            os.kill(full.pid, how)
        assert [caller.result().resumed for caller in callers] == [1] * SESSIONS
        assert [caller.result().lost_ms for caller in callers] == [0.0] * SESSIONS
