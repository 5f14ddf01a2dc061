"""Sessions outlive their pod: at the deadline of its drain they go on on another one."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.gateway.spoken import KEY, SOUND, check

from avatar_client import session
from avatar_client.options import Options, Video
from localcluster import runtime_process, waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

SESSIONS = 30


async def speak(
    url: str, mode: Video, number: int, ready: asyncio.Semaphore, go: asyncio.Event
) -> int:
    """Speak once, and return how often the session went on after its connection had ended.

    One third has all its sound at once, another one is a microphone, and the last one is silent
    until it has moved.
    """
    target = session.Target(url, "acme/concierge", KEY, wait_ms=20_000)
    async with session.connect(target, Options(video=mode)) as live:
        ready.release()
        await go.wait()
        if number % 3 == 2:
            await waiting.until(
                lambda: asyncio.sleep(0, live.resumed), lambda times: times > 0, "moved", 60
            )
        response = await live.speak(SOUND, realtime=number % 3 == 1)
        check(live, response)
        return live.resumed


async def test_the_sessions_of_a_drained_pod_go_on_on_another_one(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any]
) -> None:
    with ExitStack() as stack:
        runtimes = []
        for name in ("p1", "p2"):
            environment = {
                "AVATAR_POD": name,
                "AVATAR_SERVICE": "acme/concierge",
                "AVATAR_CAPACITY": "40",
                "AVATAR_DRAIN_TIMEOUT_S": "1",
            }
            log = tmp_path / f"{name}.log"
            served = runtime_process.serving(log, 16, environment, device="simulated:h100-80gb")
            runtimes.append(stack.enter_context(served))
        fake.items["pods"] = [pod(fake, *each) for each in zip(("p1", "p2"), runtimes, strict=True)]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        async with start_gateway() as gateway:
            status = partial(gateway.status, "/readyz")
            await waiting.until(status, lambda found: found == 200, "ready", 20)
            ready, go = asyncio.Semaphore(0), asyncio.Event()
            url = f"ws://127.0.0.1:{gateway.ports[0]}"
            modes: list[Video] = ["jpeg", "h264"] * SESSIONS
            async with asyncio.TaskGroup() as group:
                callers = []
                for number in range(SESSIONS):
                    speaking = speak(url, modes[number], number, ready, go)
                    callers.append(group.create_task(speaking))
                    if number == 0:
                        await ready.acquire()
                for _ in callers[1:]:
                    await ready.acquire()
                # The gateway fills one pod after the other.
                full = next(each for each in runtimes if each.state()["sessions"] == SESSIONS)
                other = next(each for each in runtimes if each is not full)
                go.set()
                os.kill(full.pid, signal.SIGTERM)
                await waiting.until(
                    lambda: asyncio.to_thread(lambda: other.state()["sessions"]),
                    lambda sessions: sessions == SESSIONS,
                    "every session has moved",
                    60,
                )
            assert [caller.result() for caller in callers] == [1] * SESSIONS


def pod(fake: Any, name: str, runtime: runtime_process.Runtime) -> Any:
    """Return a pod as the API server has it, with the ports of a process."""
    ports = [
        {"name": port, "containerPort": int(url.rpartition(":")[2])}
        for port, url in (("sessions", runtime.url), ("admin", runtime.admin))
    ]
    return fake.pod(name, ports=ports, podIP="127.0.0.1")
