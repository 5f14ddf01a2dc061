"""The whole process: how it starts, and how it stops after the last session has ended."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

from avatar_runtime.errors import AssetError
from avatar_runtime.serving import runtime, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.runtime.serving.conftest import Client, FakeEngine, Serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60.0


async def test_a_drain_waits_for_the_last_session(serve: Serve) -> None:
    async with serve() as served:
        async with served.client() as client:
            draining = asyncio.create_task(served.runtime.drain())
            await served.eventually(lambda: served.runtime.slots.draining, "drained")
            await client.speak(5)
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            assert not draining.done()
        async with asyncio.timeout(DEADLINE_S):
            await draining
        served.runtime.set_draining(False)
        assert served.runtime.slots.draining  # a process that is ending accepts no sessions again


async def test_no_message_waits_for_the_acknowledgement_of_the_one_before(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    accept = server.WebSocketProtocol.connection_made

    def accepted(protocol: server.WebSocketProtocol, transport: Any) -> None:
        connection = transport.get_extra_info("socket")
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        accept(protocol, transport)

    monkeypatch.setattr(server.WebSocketProtocol, "connection_made", accepted)
    async with serve() as served, served.client():
        assert found == [1]


async def test_a_drain_that_takes_too_long_ends_sessions_with_1012(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MOVE_S", 0.0)
    async with serve(AVATAR_DRAIN_TIMEOUT_S="0") as served, served.client() as client:
        await client.speak(200)
        await client.until("response.video.delta")
        draining = asyncio.create_task(served.runtime.drain())
        done = await client.until("response.done")
        assert done["response"]["status_details"]["error"]["code"] == "session_ended"
        await client.socket.wait_closed()
        assert client.socket.close_code == 1012
        await draining


async def test_an_engine_that_does_not_start_stops_the_process_with_the_reason(
    serve: Serve, make_engine: Callable[..., FakeEngine]
) -> None:
    engine = make_engine(fault=AssetError("models/demo", "unet.pth is missing"))
    async with serve(engine=engine, ready=False) as served:
        error = await server.until_end(served.runtime, asyncio.Event())
        assert str(error) == "models/demo: unet.pth is missing"


async def test_the_garbage_collector_does_not_visit_the_objects_of_the_start(
    serve: Serve,
) -> None:
    try:
        async with serve(ready=False) as served:
            stop_signal = asyncio.Event()
            stop_signal.set()
            assert await server.until_end(served.runtime, stop_signal) is None
            assert gc.get_freeze_count() > 10_000
            assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    finally:
        gc.unfreeze()


@asynccontextmanager
async def command(**variables: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, str]]:
    """Run `avatar-runtime serve` with a simulated device; give it and its two addresses."""
    sessions, admin = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_runtime", "serve"),
        *("--model", "examples/models/demo", "--avatars", "examples/avatars"),
        *("--device", "simulated:h100-80gb", "--batch-size", "8"),
        *("--listen", sessions, "--admin", admin),
        cwd=ROOT,
        env={**os.environ, "AVATAR_LOG_FORMAT": "json", **variables},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process, sessions, admin
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ready(process: asyncio.subprocess.Process, sessions: str) -> None:
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient() as http:
        while True:
            assert process.returncode is None, await _errors(process)
            try:
                if (await http.get(f"http://{sessions}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def _errors(process: asyncio.subprocess.Process) -> str:
    return (await process.communicate())[1].decode()


async def test_sigterm_stops_the_process_after_the_live_session_has_ended(
    make_client: Callable[[Any], Client],
) -> None:
    async with command() as (process, sessions, admin):
        await ready(process, sessions)
        async with connect(f"ws://{sessions}/v1/realtime?avatar=anna") as websocket:
            client = make_client(websocket)
            await client.speak(50)
            await client.until("response.video.delta")
            process.send_signal(signal.SIGTERM)
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
            await client.speak(5)
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
            async with httpx.AsyncClient() as http:
                state = (await http.get(f"http://{admin}/control/v1/state")).json()
            assert (state["draining"], state["sessions"]) == (True, 1)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0


async def test_the_drain_command_waits_until_the_runtime_is_empty() -> None:
    async with command(AVATAR_ADMIN_TOKEN="t0ken") as (process, sessions, admin):
        await ready(process, sessions)
        async with connect(f"ws://{sessions}/v1/realtime"):
            drain = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "avatar_runtime", "drain", "--wait"),
                *("--url", f"http://{admin}"),
                env={**os.environ, "AVATAR_ADMIN_TOKEN": "t0ken"},
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient() as http:
                async with http.stream(
                    "GET",
                    f"http://{admin}/control/v1/state?watch=1",
                    headers={"Authorization": "Bearer t0ken"},
                ) as states:
                    async for line in states.aiter_lines():
                        if json.loads(line)["draining"]:
                            break
            assert drain.returncode is None
        printed, _ = await drain.communicate()
        assert json.loads(printed) == {"sessions": 0}
        assert await drain.wait() == 0
        assert process.returncode is None  # the kubelet stops it with SIGTERM


async def test_a_process_that_cannot_start_prints_the_reason_in_one_line() -> None:
    async with command(AVATAR_CAPACITY="many") as (process, _, _):
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert errors.decode() == (
            "avatar-runtime: AVATAR_CAPACITY is 'many', must be a whole number from 1 to 1024\n"
        )
