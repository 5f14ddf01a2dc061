"""The gateway as a process: it finds pods, serves sessions and drains."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests import certificates
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_gateway import __main__ as command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.redis_server import RedisServer

    Until = Callable[..., Awaitable[None]]

KEY = "a-key-of-some-length"
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def _session(process: Any, fake: Any, pod: Any, until: Until) -> Any:
    """Add the pod to the API, wait for its state stream, and open a session on it."""
    ports = [
        {"name": "sessions", "containerPort": pod.port},
        {"name": "admin", "containerPort": pod.admin_port},
    ]
    service = {"metadata": {"name": "concierge", "namespace": "acme", "resourceVersion": "2"}}
    fake.events["avatarservices"].put_nowait({"type": "ADDED", "object": service})
    added = fake.pod("p1", 3, ports, podIP="127.0.0.1")
    fake.events["pods"].put_nowait({"type": "ADDED", "object": added})
    await until(lambda: pod.tokens)
    url = f"ws://127.0.0.1:{process.ports[0]}/v1/realtime?model=acme/concierge"
    async with asyncio.timeout(30):
        while True:  # the watch of the services may be later than that of the pods
            try:
                return await connect(url, additional_headers=HEADERS)
            except InvalidStatus as refused:
                if refused.response.status_code != 404:
                    raise


@pytest.mark.slow
async def test_a_gateway_says_whether_its_shared_state_answers(
    start_gateway: Any,
    fake: Any,
    fake_pod: Any,
    until: Until,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    log = tmp_path / "usage"
    variables = {
        "AVATAR_GATEWAY_SHARED_STATE_URL": redis_server.url,
        "AVATAR_GATEWAY_USAGE_LOG": str(log),
        "AVATAR_ADMIN_TOKEN": "t" * 16,
    }
    async with start_gateway(**variables) as process, aiohttp.ClientSession() as http:
        admin = f"http://127.0.0.1:{process.ports[1]}"
        headers = {"Authorization": f"Bearer {'t' * 16}"}

        async def until_state(name: str, up: int) -> None:
            async with asyncio.timeout(30):
                while True:
                    async with http.get(f"{admin}/control/v1/state", headers=headers) as response:
                        state = (await response.json())["shared_state"]
                    async with http.get(f"{admin}/metrics", headers=headers) as response:
                        metrics = await response.text()
                    if state == name and f"shared_state_up {up}.0" in metrics:
                        return
                    await asyncio.sleep(0.05)

        await until_state("ok", 1)
        caller = await _session(process, fake, fake_pod, until)
        await redis_server.kill()
        await until_state("unavailable", 0)
        await caller.send("still here")
        assert await caller.recv() == "still here"
        async with await _session(process, fake, fake_pod, until) as another:
            await another.send("a new one")
            assert await another.recv() == "a new one"
        await redis_server.start()
        await until_state("ok", 1)
        await caller.close()
        process.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.child.wait() == 0
    async with redis_server.client() as client:
        (hour,) = await client.keys("avatar:usage:*")
        totals = await client.hgetall(str(hour))
    assert totals["- acme/concierge - 1"] == "2"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["sessions"] for line in lines] == [1, 1]
    assert len({line["key"] for line in lines}) == 2


@pytest.mark.slow
async def test_a_gateway_waits_for_its_sessions_after_sigterm(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    async with start_gateway() as process:
        assert await process.status("/healthz") == 200
        async with await _session(process, fake, fake_pod, until) as caller:
            assert await process.status("/readyz") == 200
            process.child.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while await process.status("/readyz") != 503:
                    pass
            await caller.send("still here")
            assert await caller.recv() == "still here"
        async with asyncio.timeout(5):
            assert await process.child.wait() == 0


@pytest.mark.slow
async def test_a_gateway_with_a_certificate_serves_tls_and_follows_its_files(
    start_gateway: Any, tmp_path: Path
) -> None:
    files, other = certificates.make(tmp_path), certificates.make(tmp_path, "new")
    variables = {
        "AVATAR_GATEWAY_TLS_CERTIFICATE": str(files.certificate),
        "AVATAR_GATEWAY_TLS_KEY": str(files.key),
    }
    async with start_gateway(**variables) as process, asyncio.timeout(30):
        sessions, admin = process.ports

        async def shown() -> bytes:
            context = certificates.trusting_anyone()
            _, writer = await asyncio.open_connection("127.0.0.1", sessions, ssl=context)
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            assert isinstance(der, bytes)
            return der

        assert await shown() == files.der
        files.replace(other)
        while await shown() != other.der:  # noqa: ASYNC110 - the process looks at its files
            await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as http:
            trusted = other.client()
            async with http.get(f"https://localhost:{sessions}/healthz", ssl=trusted) as response:
                assert response.status == 200
            async with http.get(f"http://127.0.0.1:{admin}/healthz") as response:
                assert response.status == 200


@pytest.mark.slow
async def test_a_second_signal_ends_the_sessions_with_1012(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    async with start_gateway() as process:
        caller = await _session(process, fake, fake_pod, until)
        process.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while await process.status("/readyz") != 503:
                pass
        process.child.send_signal(signal.SIGINT)
        await caller.wait_closed()
        assert caller.close_code == 1012
        async with asyncio.timeout(5):
            assert await process.child.wait() == 0


@pytest.mark.slow
async def test_a_gateway_that_stops_refuses_nobody_while_it_is_not_ready(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    async with start_gateway(AVATAR_GATEWAY_DRAIN_DELAY_S="1") as process:
        first = await _session(process, fake, fake_pod, until)
        await first.close()
        process.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while await process.status("/readyz") != 503:
                pass
        # A load balancer has not noticed that yet.
        url = f"ws://127.0.0.1:{process.ports[0]}/v1/realtime?model=acme/concierge"
        async with connect(url, additional_headers=HEADERS) as caller:
            await asyncio.sleep(1)
            await caller.send("still here")
            assert await caller.recv() == "still here"
            with pytest.raises(InvalidStatus, match="503"):
                await connect(url, additional_headers=HEADERS)
        async with asyncio.timeout(5):
            assert await process.child.wait() == 0


def test_a_wrong_setting_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AVATAR_API_KEY", "short")
    monkeypatch.setenv("AVATAR_GATEWAY_KEY", "m" * 16)
    assert command.main(["serve"]) == 2
    assert "AVATAR_API_KEY" in capsys.readouterr().err


def test_a_folder_without_an_api_key_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "api-key").write_text("short")
    monkeypatch.setenv("AVATAR_API_KEY_FOLDER", str(tmp_path))
    monkeypatch.setenv("AVATAR_GATEWAY_KEY", "m" * 16)
    assert command.main(["serve"]) == 2
    assert f"{tmp_path}/api-key has no key of 16 characters" in capsys.readouterr().err


def test_a_certificate_that_cannot_be_used_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AVATAR_API_KEY", KEY)
    monkeypatch.setenv("AVATAR_GATEWAY_KEY", KEY)
    files = [str(tmp_path / name) for name in ("tls.crt", "tls.key")]
    arguments = ["serve", "--tls-certificate", files[0], "--tls-key", files[1]]
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == f"avatar-gateway: {files[0]}: No such file or directory\n"
    assert command.main(arguments[:3]) == 2
    assert "AVATAR_GATEWAY_TLS_KEY is not set" in capsys.readouterr().err
